"""Data N(m, s^2), whose diffusion is known exactly."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from edp_robot.diffusion.schedule import alpha_sigma


@dataclass(frozen=True)
class Gaussian:
    m: float
    s: float

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t."""
        alpha, sigma = alpha_sigma(t)
        return alpha * self.m, (alpha**2 * self.s**2 + sigma**2).sqrt()

    def eps_hat(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The exact noise prediction E[eps | x_t]."""
        mean, std = (v.unsqueeze(-1) for v in self.marginal(t))
        return alpha_sigma(t)[1].unsqueeze(-1) * (x_t - mean) / std**2

    def ode(self, x: Tensor, t_from: float, t_to: float) -> Tensor:
        """The probability-flow ODE: it keeps every point at its quantile."""
        (m0, s0), (m1, s1) = (self.marginal(torch.tensor(t, dtype=x.dtype)) for t in (t_from, t_to))
        return m1 + s1 * (x - m0) / s0


class ExactModel(nn.Module):
    """The exact noise prediction with the interface of a NoiseModel, times `factor`."""

    def __init__(self, data: Gaussian, factor: float = 1.0) -> None:
        super().__init__()
        self.data = data
        self.factor = factor

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.factor * self.data.eps_hat(x_t, t)


@pytest.fixture
def gaussian():
    return Gaussian


@pytest.fixture
def exact_model():
    return ExactModel
