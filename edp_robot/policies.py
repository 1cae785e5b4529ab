"""Policies as they are deployed: (raw obs, noise) to action, normaliser and sampler inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sim.spec import ActionMap

from .diffusion.networks import NoiseModel, Normaliser, mlp
from .diffusion.schedule import scalar_coefficients
from .diffusion.solver import dpm_solver_pp, predict_data


class GaussianPolicy(nn.Module):
    """The mean action of a DDPG actor; takes noise (batch, act_dim) and ignores it."""

    def __init__(self, normaliser: Normaliser, actor: nn.Module, act_dim: int) -> None:
        super().__init__()
        self.normaliser, self.actor, self.act_dim = normaliser, actor, act_dim

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim)."""
        return torch.tanh(self.actor(self.normaliser(obs))) + 0 * noise


class DiffusionPolicy(nn.Module):
    """a = ODE(noise | s): DPM-Solver++ over a noise model, `n_denoise_steps` calls a decision."""

    def __init__(self, normaliser: Normaliser, model: NoiseModel, act_dim: int, n_denoise_steps: int = 15) -> None:
        super().__init__()
        self.normaliser, self.model, self.act_dim, self.n_denoise_steps = normaliser, model, act_dim, n_denoise_steps

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim) and noise (batch, act_dim)."""
        condition = self.normaliser(obs)
        return dpm_solver_pp(lambda x, t: self.model(x, t, condition), noise, self.n_denoise_steps)


class StudentPolicy(nn.Module):
    """mu(s, z): the teacher's whole ODE in one network call; with `polish`, one more call of the teacher's network.

    The polish noises mu to t = tau with the same z and takes the teacher's data prediction there (method section 7).
    """

    def __init__(
        self,
        normaliser: Normaliser,
        obs_dim: int,
        act_dim: int,
        width: int = 256,
        n_layers: int = 3,
        teacher: NoiseModel | None = None,
        tau: float = 0.15,
    ) -> None:
        super().__init__()
        self.normaliser, self.act_dim, self.tau = normaliser, act_dim, tau
        self.net = mlp([obs_dim + act_dim, *[width] * n_layers, act_dim], layer_norm=False)
        self.teacher = teacher

    @property
    def n_denoise_steps(self) -> int:
        """Network calls a decision."""
        return 1 if self.teacher is None else 2

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim) and noise (batch, act_dim)."""
        condition = self.normaliser(obs)
        action = self.net(torch.cat([condition, noise], -1)).clamp(-1, 1)
        if self.teacher is None:
            return action
        alpha, sigma, _ = scalar_coefficients(self.tau)
        teacher = self.teacher
        return predict_data(lambda x, t: teacher(x, t, condition), alpha * action + sigma * noise, self.tau, 1.0)


class Deployed(nn.Module):
    """A policy with its action map folded in: (obs, noise) to commands (batch, horizon, act_dim) in physical units."""

    scale: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    ramp: Tensor

    def __init__(self, policy: nn.Module, action_map: ActionMap, horizon: int) -> None:
        super().__init__()
        self.policy, self.start, self.increment = policy, action_map.command_start, action_map.kind == "increment"
        for name in ("scale", "offset", "low", "high"):
            self.register_buffer(name, torch.tensor(getattr(action_map, name), dtype=torch.float32))
        k = torch.arange(1, horizon + 1, dtype=torch.float32) if self.increment else torch.ones(horizon)
        self.register_buffer("ramp", k.reshape(1, horizon, 1))

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns what `ActionMap.chunk` returns for the policy's action."""
        action = (self.scale * self.policy(obs, noise)).unsqueeze(1)
        base = obs[:, self.start : self.start + len(self.scale)] if self.increment else self.offset.expand(len(obs), -1)
        return torch.minimum(torch.maximum(base.unsqueeze(1) + self.ramp * action, self.low), self.high)
