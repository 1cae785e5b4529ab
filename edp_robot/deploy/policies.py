"""Policies as they are deployed: (raw obs, noise) to action, normaliser and sampler inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edp_robot.diffusion.networks import NoiseModel, Normaliser, TwinCritic
from edp_robot.diffusion.solver import dpm_solver_pp
from sim.core.spec import ActionMap


class GaussianPolicy(nn.Module):
    """The mean action of a DDPG actor; takes noise (batch, act_dim) and ignores it."""

    def __init__(self, normaliser: Normaliser, actor: nn.Module, act_dim: int) -> None:
        super().__init__()
        self.normaliser, self.actor, self.latent_dim = normaliser, actor, act_dim

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim)."""
        return torch.tanh(self.actor(self.normaliser(obs))) + 0 * noise


class DiffusionPolicy(nn.Module):
    """a = ODE(noise | s): DPM-Solver++ over a noise model, `n_denoise_steps` calls a decision."""

    def __init__(
        self, normaliser: Normaliser, model: NoiseModel, act_dim: int, n_denoise_steps: int = 15
    ) -> None:
        super().__init__()
        self.normaliser, self.model, self.latent_dim, self.n_denoise_steps = (
            normaliser,
            model,
            act_dim,
            n_denoise_steps,
        )

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim) and noise (batch, act_dim)."""
        condition = self.normaliser(obs)
        return dpm_solver_pp(lambda x, t: self.model(x, t, condition), noise, self.n_denoise_steps)


class BestOfK(nn.Module):
    """Of K answers of a policy, the one that the critic values most (the smaller of its two Q; method section 7)."""

    def __init__(
        self, policy: nn.Module, normaliser: Normaliser, critic: TwinCritic, k: int
    ) -> None:
        super().__init__()
        if k < 2:
            raise ValueError(f"best of {k}: give 2 or more")
        self.policy, self.normaliser, self.critic, self.k = policy, normaliser, critic, k
        self.n_each = int(policy.latent_dim)  # type: ignore[arg-type]
        self.latent_dim = k * self.n_each

    def candidates(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the answers (batch, K, act_dim) and their Q (batch, K)."""
        wide = obs.unsqueeze(1).expand(-1, self.k, -1).reshape(-1, obs.shape[-1])
        action = self.policy(wide, noise.reshape(-1, self.n_each))
        q = self.critic(self.normaliser(wide), action).amin(0)
        return action.reshape(-1, self.k, action.shape[-1]), q.reshape(-1, self.k)

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) for raw obs (batch, obs_dim) and noise (batch, K latent_dim)."""
        action, q = self.candidates(obs, noise)
        best = q.argmax(1, keepdim=True).unsqueeze(-1).expand(-1, 1, action.shape[-1])
        return action.gather(1, best).squeeze(1)


class Deployed(nn.Module):
    """A policy with its action map folded in: (obs, noise) to commands (batch, horizon, act_dim) in physical units."""

    offset: Tensor
    low: Tensor
    high: Tensor
    ramp: Tensor

    def __init__(self, policy: nn.Module, action_map: ActionMap, horizon: int) -> None:
        super().__init__()
        self.policy, self.start, self.increment = (
            policy,
            action_map.command_start,
            action_map.kind == "increment",
        )
        for name in ("offset", "low", "high"):
            self.register_buffer(name, torch.tensor(getattr(action_map, name), dtype=torch.float32))
        scale = torch.tensor(action_map.scale, dtype=torch.float32)
        k = (
            torch.arange(1, horizon + 1, dtype=torch.float32)
            if self.increment
            else torch.ones(horizon)
        )
        self.register_buffer("ramp", k.reshape(1, horizon, 1) * scale)

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns what `ActionMap.chunk` returns for the policy's action."""
        change = self.ramp * self.policy(obs, noise).unsqueeze(1)
        base = (
            obs[:, self.start : self.start + len(self.offset)].unsqueeze(1)
            if self.increment
            else self.offset
        )
        return torch.minimum(torch.maximum(base + change, self.low), self.high)
