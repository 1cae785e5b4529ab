"""Students: a teacher's many denoising steps in 1, 2 or 4 network calls (method section 7).

All of them answer (raw obs, noise) with an action, as `policies.DiffusionPolicy` does. Their noise is (batch,
latent_dim): act_dim numbers, for consistency students as many again for each further call.
"""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
from torch import Tensor, nn

from edp_robot.diffusion.networks import ACTIVATIONS, Linear, NoiseModel, Normaliser, mlp
from edp_robot.diffusion.schedule import T_MIN, alpha_sigma, half_log_snr, scalar_coefficients
from edp_robot.diffusion.solver import dpm_solver_pp, time_grid

POLISH_TAU = {2: 0.1, 4: 0.25}  # where the teacher takes over from the first call's guess


class Student(nn.Module):
    """A normaliser and the network that is trained, whatever the number of calls it is then used for."""

    def __init__(self, normaliser: Normaliser, act_dim: int, net: nn.Module) -> None:
        super().__init__()
        self.normaliser, self.act_dim, self.net, self.n_denoise_steps = normaliser, act_dim, net, 1

    @property
    def latent_dim(self) -> int:
        """Numbers of noise a decision."""
        return self.act_dim

    def with_steps(self, n_denoise_steps: int) -> Self:
        """Returns the student of so many network calls; it shares this one's network."""
        other = copy.copy(self)
        other.n_denoise_steps = n_denoise_steps
        return other


class PairedStudent(Student):
    """mu(s, z): the teacher's whole ODE in one network call; of more calls, the teacher's solver makes the others.

    These polish: mu is noised to t = tau, and the teacher's last n_denoise_steps - 1 steps lead back from there. The
    noise is the same z: it has led mu to its mode, so the noised point lies on that mode's side, and the teacher's
    prediction from there is no mean of several modes. Fresh noise would need a smaller tau (docs/distillation.md).
    """

    teacher: NoiseModel | None

    def __init__(
        self,
        normaliser: Normaliser,
        obs_dim: int,
        act_dim: int,
        width: int = 256,
        n_layers: int = 3,
        activation: str = "relu",
        teacher: NoiseModel | None = None,
        tau: float | None = None,
    ) -> None:
        sizes = [obs_dim + act_dim, *[width] * n_layers, act_dim]
        super().__init__(normaliser, act_dim, mlp(sizes, layer_norm=False, activation=activation))
        self.tau = tau
        self.register_module("teacher", teacher)

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim), noise (batch, latent_dim)."""
        condition, teacher = self.normaliser(obs), self.teacher
        action = self.net(torch.cat([condition, noise], -1)).clamp(-1, 1)
        if self.n_denoise_steps == 1:
            return action
        if teacher is None:
            raise ValueError(
                f"{self.n_denoise_steps} calls: all but the first are the teacher's; give one"
            )
        tau = self.tau or POLISH_TAU[self.n_denoise_steps]
        alpha, sigma, _ = scalar_coefficients(tau)
        x = alpha * action + sigma * noise
        return dpm_solver_pp(
            lambda x, t: teacher(x, t, condition), x, self.n_denoise_steps - 1, t_start=tau
        )


class ConsistencyNet(nn.Module):
    """f(x_t, t | condition), the end of the teacher's ODE that passes through x_t (Song et al., arXiv 2303.01469).

    With e = sigma_t / alpha_t, d = DATA_STD and x = x_t / alpha_t, the scaling is that of Karras et al. (arXiv
    2206.00364), so that f(x, T_MIN) = x whatever the network F says:

        f = d^2 / ((e - e_min)^2 + d^2) x + (e - e_min) d / sqrt(e^2 + d^2) F(x / sqrt(e^2 + d^2), t, condition)
    """

    DATA_STD = 0.5
    frequency: Tensor

    def __init__(
        self, dim: int, cond_dim: int, width: int, n_layers: int, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.register_buffer("frequency", 2.0 ** torch.arange(-2, 3))
        self.time = Linear(2 * len(self.frequency), width)
        self.stem = Linear(dim + cond_dim, width)
        self.body = nn.Sequential(
            ACTIVATIONS[activation](),
            mlp([*[width] * n_layers, dim], layer_norm=False, activation=activation),
        )
        alpha, sigma = alpha_sigma(torch.tensor(T_MIN))
        self.e_min = float(sigma / alpha)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Returns data (batch, dim) for x_t (batch, dim) at t (batch, 1) or (1, 1), condition (batch, cond_dim)."""
        alpha, sigma = alpha_sigma(t)
        e, d, x = sigma / alpha, self.DATA_STD, x_t / alpha
        size = torch.sqrt(e * e + d * d)
        angle = half_log_snr(t) / 5 * math.pi * self.frequency  # log-SNR / 2 lies in about [-5, 5]
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        net = self.body(self.stem(torch.cat([x / size, condition], -1)) + time)
        return (d * d / ((e - self.e_min) ** 2 + d * d)) * x + ((e - self.e_min) * d / size) * net


class ConsistencyStudent(Student):
    """A = f(z, 1); then, for each further call, A is noised to an earlier time with fresh noise and f answers again."""

    def __init__(
        self,
        normaliser: Normaliser,
        obs_dim: int,
        act_dim: int,
        width: int = 256,
        n_layers: int = 3,
        activation="relu",
    ) -> None:
        super().__init__(
            normaliser, act_dim, ConsistencyNet(act_dim, obs_dim, width, n_layers, activation)
        )

    @property
    def latent_dim(self) -> int:
        """Numbers of noise a decision."""
        return self.n_denoise_steps * self.act_dim

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim), noise (batch, latent_dim)."""
        condition, draws = self.normaliser(obs), noise.split(self.act_dim, -1)
        action = torch.zeros_like(draws[0])
        for z, t in zip(draws, time_grid(self.n_denoise_steps)[:-1], strict=True):
            alpha, sigma, _ = scalar_coefficients(t)
            x_t = z if t == 1 else alpha * action + sigma * z
            action = self.net(x_t, torch.full((1, 1), t, device=z.device), condition).clamp(-1, 1)
        return action
