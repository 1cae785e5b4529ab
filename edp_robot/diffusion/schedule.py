"""The variance-preserving noise schedule (method Eq. 1-3): t = 0 is data, t = 1 is noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

B0 = 0.1
B1 = 20.0
T_MIN = 1e-3


def log_alpha(t: Tensor) -> Tensor:
    """Returns log alpha_t, the shape of t (method Eq. 2)."""
    return -(t**2) * (B1 - B0) / 4 - t * B0 / 2


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (alpha_t, sigma_t), each the shape of t, with alpha^2 + sigma^2 = 1."""
    log_a = log_alpha(t)
    return log_a.exp(), (-torch.expm1(2 * log_a)).sqrt()


def half_log_snr(t: Tensor) -> Tensor:
    """Returns log(alpha_t / sigma_t), half of method Eq. 3's log_snr; it falls as t grows."""
    alpha, sigma = alpha_sigma(t)
    return torch.log(alpha / sigma)


def t_of_half_log_snr(lam: Tensor) -> Tensor:
    """Returns the t at which log(alpha_t / sigma_t) = lam: the root of Eq. 2's quadratic."""
    log_a = -0.5 * torch.nn.functional.softplus(-2 * lam)
    a = (B1 - B0) / 4
    b = B0 / 2
    return (-b + torch.sqrt(b * b - 4 * a * log_a)) / (2 * a)


def add_noise(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Returns x_t = alpha_t x_0 + sigma_t eps (method Eq. 1).

    Args:
        x0: Data (batch, dim).
        eps: Noise (batch, dim).
        t: Times (batch,).
    """
    alpha, sigma = alpha_sigma(t)
    return alpha.unsqueeze(-1) * x0 + sigma.unsqueeze(-1) * eps


def sample_t(
    n: int, device: torch.device | str = "cpu", low: float = T_MIN, high: float = 1.0
) -> Tensor:
    """Returns stratified times (n,): one uniform draw in each n-th of [low, high], shuffled.

    Args:
        n: Number of times.
        device: Where the times lie.
        low: Smallest time.
        high: Largest time.
    """
    u = (torch.arange(n, device=device) + torch.rand(n, device=device)) / n
    return low + (high - low) * u[torch.randperm(n, device=device)]


def scalar_coefficients(t: float) -> tuple[float, float, float]:
    """Returns (alpha_t, sigma_t, log(alpha_t / sigma_t)) as Python floats, for unrolled graphs."""
    log_a = -(t**2) * (B1 - B0) / 4 - t * B0 / 2
    alpha = math.exp(log_a)
    sigma = math.sqrt(-math.expm1(2 * log_a))
    return alpha, sigma, math.log(alpha / sigma)
