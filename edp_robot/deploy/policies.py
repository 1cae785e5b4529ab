"""Policies as they are deployed: (raw obs, noise) to action, normaliser and sampler inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edp_robot.diffusion.networks import NoiseModel, Normaliser, TwinCritic
from edp_robot.diffusion.solver import dpm_solver_pp
from sim.core.action_map import ActionMap


class GaussianPolicy(nn.Module):
    """The mean action of a DDPG actor; takes noise (batch, act_dim) and ignores it."""

    def __init__(self, normaliser: Normaliser, actor: nn.Module, act_dim: int) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.actor = actor
        self.latent_dim = act_dim

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim)."""
        return torch.tanh(self.actor(self.normaliser(obs))) + 0 * noise


class OneStepPolicy(GaussianPolicy):
    """a = tanh(mu(s, z)): one network call turns noise into an action (method Eq. 11)."""

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim).

        The noise is (batch, act_dim).
        """
        return torch.tanh(self.actor(torch.cat([self.normaliser(obs), noise], -1)))


class DiffusionPolicy(nn.Module):
    """a = ODE(noise | s): DPM-Solver++ over a noise model, `n_denoise_steps` calls a decision."""

    def __init__(
        self, normaliser: Normaliser, model: NoiseModel, act_dim: int, n_denoise_steps: int = 15
    ) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.model = model
        self.latent_dim = act_dim
        self.n_denoise_steps = n_denoise_steps

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim).

        The noise is (batch, act_dim).
        """
        condition = self.normaliser(obs)
        return dpm_solver_pp(lambda x, t: self.model(x, t, condition), noise, self.n_denoise_steps)


class BestOfK(nn.Module):
    """The one of K answers that the critic values most, by its smaller Q (method section 7).

    Args:
        policy: Answers (raw obs, noise).
        normaliser: What the critic's observations pass through.
        critic: Values (normalised obs, action).
        k: Answers a decision, 2 or more.

    Raises:
        ValueError: `k` is below 2.
    """

    def __init__(
        self, policy: nn.Module, normaliser: Normaliser, critic: TwinCritic, k: int
    ) -> None:
        super().__init__()
        if k < 2:
            raise ValueError(f"best of {k}: give 2 or more")
        self.policy = policy
        self.normaliser = normaliser
        self.critic = critic
        self.k = k
        self.n_each = int(policy.latent_dim)  # type: ignore[arg-type]
        self.latent_dim = k * self.n_each

    def candidates(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the answers (batch, K, act_dim) and their Q (batch, K)."""
        wide = obs.unsqueeze(1).expand(-1, self.k, -1).reshape(-1, obs.shape[-1])
        action = self.policy(wide, noise.reshape(-1, self.n_each))
        q = self.critic(self.normaliser(wide), action).amin(0)
        return action.reshape(-1, self.k, action.shape[-1]), q.reshape(-1, self.k)

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) for raw obs (batch, obs_dim).

        The noise is (batch, K latent_dim).
        """
        action, q = self.candidates(obs, noise)
        best = q.argmax(1, keepdim=True).unsqueeze(-1).expand(-1, 1, action.shape[-1])
        return action.gather(1, best).squeeze(1)


def best_of(k: int, policy: nn.Module, normaliser: Normaliser, critic: TwinCritic) -> nn.Module:
    """Returns the policy with the critic's choice among `k` answers; with 1, the policy itself.

    Args:
        k: Answers a decision.
        policy: Answers (raw obs, noise).
        normaliser: What the critic's observations pass through.
        critic: Values (normalised obs, action).
    """
    return policy if k == 1 else BestOfK(policy, normaliser, critic, k)


class Deployed(nn.Module):
    """A policy with its action map folded in: the torch form of `ActionMap.chunk`.

    It turns (obs, noise) into commands (batch, horizon, act_dim) in physical units.
    """

    offset: Tensor
    low: Tensor
    high: Tensor
    ramp: Tensor

    def __init__(self, policy: nn.Module, action_map: ActionMap, horizon: int) -> None:
        super().__init__()
        self.policy = policy
        self.start = action_map.command_start
        self.increment = action_map.kind == "increment"
        for name in ("offset", "low", "high"):
            self.register_buffer(name, torch.tensor(getattr(action_map, name), dtype=torch.float32))
        steps = torch.arange(1, horizon + 1, dtype=torch.float32)
        n_increments = steps if self.increment else torch.ones(horizon)
        scale = torch.tensor(action_map.scale, dtype=torch.float32)
        self.register_buffer("ramp", n_increments.reshape(1, horizon, 1) * scale)

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns the commands of holding the policy's action for the horizon."""
        change = self.ramp * self.policy(obs, noise).unsqueeze(1)
        base = self.offset
        if self.increment:
            base = obs[:, self.start : self.start + len(self.offset)].unsqueeze(1)
        return torch.minimum(torch.maximum(base + change, self.low), self.high)
