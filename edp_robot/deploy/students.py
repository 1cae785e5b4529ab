"""Students: a teacher's many denoising steps in 1, 2 or 4 network calls (method section 7).

Like `policies.DiffusionPolicy`, a student turns (raw obs, noise) into an action. Its noise is
(batch, latent_dim): act_dim numbers, in consistency students as many again for each further call.
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

POLISH_TAU = {2: 0.1, 4: 0.25}  # by calls: where the teacher takes over from the first call


class Student(nn.Module):
    """A normaliser and the network that is trained, whatever number of calls it is used with."""

    def __init__(self, normaliser: Normaliser, act_dim: int, net: nn.Module) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.act_dim = act_dim
        self.net = net
        self.n_denoise_steps = 1

    @property
    def latent_dim(self) -> int:
        """Numbers of noise for one decision."""
        return self.act_dim

    def with_steps(self, n_denoise_steps: int) -> Self:
        """Returns the student of so many network calls, which shares this one's network."""
        other = copy.copy(self)
        other.n_denoise_steps = n_denoise_steps
        return other


class PairedStudent(Student):
    """mu(s, z): the teacher's whole ODE in one network call.

    With more calls, the teacher's solver polishes: mu is noised to t = tau, and the teacher's last
    n_denoise_steps - 1 steps lead back from there. The noise is the same z, which has led mu to its
    mode. So the noised point lies on that mode's side, and the teacher's prediction from there is
    no mean of several modes. Fresh noise would need a smaller tau (docs/distillation.md).
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
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim).

        The noise is (batch, latent_dim).

        Raises:
            ValueError: More than one call, and there is no teacher.
        """
        condition = self.normaliser(obs)
        teacher = self.teacher
        action = self.net(torch.cat([condition, noise], -1)).clamp(-1, 1)
        if self.n_denoise_steps == 1:
            return action
        if teacher is None:
            raise ValueError(
                f"{self.n_denoise_steps} calls: all but the first are the teacher's; give a teacher"
            )
        tau = self.tau or POLISH_TAU[self.n_denoise_steps]
        alpha, sigma, _ = scalar_coefficients(tau)
        x = alpha * action + sigma * noise
        return dpm_solver_pp(
            lambda x, t: teacher(x, t, condition), x, self.n_denoise_steps - 1, t_start=tau
        )


class ConsistencyNet(nn.Module):
    """f(x_t, t | condition): the end of the teacher's ODE through x_t (arXiv 2303.01469).

    With e = sigma_t / alpha_t, d = DATA_STD and x = x_t / alpha_t, the scaling is that of Karras et
    al. (arXiv 2206.00364), so that f(x, T_MIN) = x for any network F:

        f = d^2 / ((e - e_min)^2 + d^2) x
            + (e - e_min) d / sqrt(e^2 + d^2) F(x / sqrt(e^2 + d^2), t, condition)
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
        body = mlp([*[width] * n_layers, dim], layer_norm=False, activation=activation)
        self.body = nn.Sequential(ACTIVATIONS[activation](), body)
        alpha, sigma = alpha_sigma(torch.tensor(T_MIN))
        self.e_min = float(sigma / alpha)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Returns data (batch, dim).

        Args:
            x_t: Noised data (batch, dim).
            t: Its time (batch, 1) or (1, 1).
            condition: What the data depends on (batch, cond_dim).
        """
        alpha, sigma = alpha_sigma(t)
        e = sigma / alpha
        d = self.DATA_STD
        x = x_t / alpha
        size = torch.sqrt(e * e + d * d)
        angle = half_log_snr(t) / 5 * math.pi * self.frequency  # log-SNR / 2 lies in about [-5, 5]
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        net = self.body(self.stem(torch.cat([x / size, condition], -1)) + time)
        return (d * d / ((e - self.e_min) ** 2 + d * d)) * x + ((e - self.e_min) * d / size) * net


class ConsistencyStudent(Student):
    """A = f(z, 1); each further call noises A to an earlier time with fresh noise, then calls f."""

    def __init__(
        self,
        normaliser: Normaliser,
        obs_dim: int,
        act_dim: int,
        width: int = 256,
        n_layers: int = 3,
        activation: str = "relu",
    ) -> None:
        net = ConsistencyNet(act_dim, obs_dim, width, n_layers, activation)
        super().__init__(normaliser, act_dim, net)

    @property
    def latent_dim(self) -> int:
        """Numbers of noise for one decision."""
        return self.n_denoise_steps * self.act_dim

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions (batch, act_dim) in [-1, 1] for raw obs (batch, obs_dim).

        The noise is (batch, latent_dim).
        """
        condition = self.normaliser(obs)
        draws = noise.split(self.act_dim, -1)
        action = torch.zeros_like(draws[0])
        for z, t in zip(draws, time_grid(self.n_denoise_steps)[:-1], strict=True):
            alpha, sigma, _ = scalar_coefficients(t)
            x_t = z if t == 1 else alpha * action + sigma * z
            action = self.net(x_t, torch.full((1, 1), t, device=z.device), condition).clamp(-1, 1)
        return action
