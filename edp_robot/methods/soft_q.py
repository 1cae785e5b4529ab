"""Soft Q-learning against a reference policy: the critic of method Eq. 6 and 7."""

from __future__ import annotations

from torch import Tensor

from edp_robot.methods.finetune.soft import soft_value
from edp_robot.methods.iql import IQL
from edp_robot.methods.replay import Batch

TINY = 1e-9


class SoftQ(IQL):
    """V(s) is the soft value over actions of pi_d, and Q bootstraps from it with gamma^n.

    It is the paper's critic but for V: Eq. 8's expectile is replaced by the value from which
    beta KL(pi || pi_d) is subtracted, without which Eq. 7 does not climb to Eq. 6's optimum. With
    n_step above 1, the rewards between are those of the actions in the replay.
    """

    def soft_losses(
        self, batch: Batch, obs: Tensor, actions: Tensor, inverse_temp: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns (value loss, critic loss), scalars.

        Args:
            batch: Transitions with normalised observations.
            obs: Normalised states (m, obs_dim) at which V is fitted.
            actions: K actions of pi_d in each (m, K, act_dim).
            inverse_temp: 1 / beta, a scalar.
        """
        n_states, k, _ = actions.shape
        q = self.q(obs.repeat_interleave(k, 0), actions.flatten(0, 1)).reshape(n_states, k)
        value_loss = (soft_value(q, inverse_temp) - self.value(obs).squeeze(-1)).square().mean()
        return value_loss, self.critic_loss(batch)

    def update_on_policy(
        self, batch: Batch, obs: Tensor, action: Tensor, kl: Tensor, inverse_temp: Tensor
    ) -> dict[str, Tensor]:
        """Takes one grad_step of V towards Q - beta KL at the policy's own actions, and of Q.

        Args:
            batch: Transitions with normalised observations.
            obs: Normalised states (m, obs_dim) at which V is fitted.
            action: An action of the policy in each (m, act_dim).
            kl: What each cost in KL to pi_d (m,) [nats].
            inverse_temp: 1 / beta, a scalar.
        """
        target = self.q(obs, action) - kl / inverse_temp.clamp(min=TINY)
        value_loss = (target - self.value(obs).squeeze(-1)).square().mean()
        return self.descend(value_loss, self.critic_loss(batch))

    def update_soft(
        self, batch: Batch, obs: Tensor, actions: Tensor, inverse_temp: Tensor
    ) -> dict[str, Tensor]:
        """Takes one grad_step of V and Q; returns metrics, scalars.

        Args:
            batch: See soft_losses.
            obs: See soft_losses.
            actions: See soft_losses.
            inverse_temp: See soft_losses.
        """
        return self.descend(*self.soft_losses(batch, obs, actions, inverse_temp))
