"""Implicit Q-learning, the critic that every diffusion fine-tuner shares (method Eq. 8)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edp_robot.diffusion.losses import expectile_loss
from edp_robot.diffusion.networks import TwinCritic, mlp
from edp_robot.engine import Adam
from edp_robot.methods.ddpg import polyak_update
from edp_robot.methods.ranges import NotNegative, Ranged, Rate, Share
from edp_robot.methods.replay import Batch


@dataclass(frozen=True)
class IQLConfig(Ranged):
    """Critic hyperparameters (method section 3)."""

    width: int = 256
    layer_norm: bool = True
    learning_rate: NotNegative = 3e-4
    polyak: Rate = 0.005
    discount: Share = 0.99
    n_step: int = 3
    expectile: float = 0.7

    def __post_init__(self) -> None:
        if not 0.5 <= self.expectile < 1:
            raise ValueError(f"expectile={self.expectile}: give a number in [0.5, 1)")
        super().__post_init__()


class IQL(nn.Module):
    """V(s) and twin Q(s, a), with a lagged copy of Q. Observations come normalised.

    Args:
        obs_dim: Length of an observation.
        act_dim: Length of an action.
        config: Hyperparameters.
    """

    def __init__(self, obs_dim: int, act_dim: int, config: IQLConfig) -> None:
        super().__init__()
        self.config = config
        self.value = mlp([obs_dim, config.width, config.width, 1], config.layer_norm)
        self.critic = TwinCritic(obs_dim, act_dim, config.width, layer_norm=config.layer_norm)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        parameters = [*self.value.parameters(), *self.critic.parameters()]
        self.optimizer = Adam(parameters, config.learning_rate)

    @torch.no_grad()
    def q(self, obs: Tensor, action: Tensor) -> Tensor:
        """Returns the smaller of the two lagged Q values (batch,)."""
        return self.critic_target(obs, action).min(0).values

    def slope(self, obs: Tensor, action: Tensor) -> Tensor:
        """Returns the gradient of `q` in the action (batch, act_dim), without one of its own.

        Args:
            obs: Normalised observations (batch, obs_dim).
            action: Actions (batch, act_dim).
        """
        with torch.enable_grad():
            start = action.detach().requires_grad_(True)
            q = self.critic_target(obs, start).min(0).values
            return torch.autograd.grad(q.sum(), start)[0]

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns (value loss, critic loss) of method Eq. 8, scalars.

        The n-step target bootstraps with gamma^n.
        """
        value = self.value(batch.obs).squeeze(-1)
        value_loss = expectile_loss(self.q(batch.obs, batch.action) - value, self.config.expectile)
        return value_loss, self.critic_loss(batch)

    def critic_loss(self, batch: Batch) -> Tensor:
        """Returns the loss of Q against n-step targets that bootstrap from V, a scalar."""
        with torch.no_grad():
            total, next_obs, factor = batch.n_step_return(batch.reward, self.config.discount)
            target = total + factor * self.value(next_obs).squeeze(-1)
        return (self.critic(batch.obs, batch.action) - target).square().sum(0).mean()

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Takes one grad_step of V and Q; returns metrics, scalars."""
        return self.descend(*self.losses(batch))

    def descend(self, value_loss: Tensor, critic_loss: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step down both losses; returns them by name."""
        self.optimizer.descend(value_loss + critic_loss)
        polyak_update(self.critic_target, self.critic, self.config.polyak)
        return {"value_loss": value_loss.detach(), "critic_loss": critic_loss.detach()}
