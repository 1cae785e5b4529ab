"""A noise level that follows the data: a state is compared with about so many others."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edp_robot.diffusion.schedule import scalar_coefficients
from edp_robot.methods.explore.ring import Ring

N_COMPARED = 32  # states of an update that the resolution is judged by
GAIN = 0.02  # of the resolution: 78 dimensions times this are below 2, where it would swing


class Resolution(nn.Module):
    """The noise sigma / alpha at which states are told apart, for each of `n_seeds` learners.

    It begins at that of `t_low`. With `n_neighbours` above 0 it follows the data: the perplexity of

        w = softmax_i(-||s - s_i||^2 / 2 (sigma / alpha)^2)

    over the held states s_i is the number of states that s is compared with, and stays near
    `n_neighbours`. In many dimensions every state is far from every other, and in few it is near to
    many, so no noise level suits all tasks; a number of neighbours does.

    Args:
        n_seeds: Learners.
        t_low: Noise level to begin with.
        n_neighbours: Number of states; 0 keeps the resolution as it is.
    """

    log_std: Tensor

    def __init__(self, n_seeds: int, t_low: float, n_neighbours: float) -> None:
        super().__init__()
        alpha, sigma, _ = scalar_coefficients(t_low)
        self.n_neighbours = n_neighbours
        self.start = math.log(sigma / alpha)
        log_std = torch.full((n_seeds, 1), self.start)
        self.register_buffer("log_std", log_std, persistent=n_neighbours > 0)

    def precision(self) -> Tensor:
        """Returns (alpha / sigma)^2 (n_seeds, 1)."""
        return torch.exp(-2 * self.log_std)

    def scale(self) -> Tensor:
        """Returns the resolution over that of `t_low` (n_seeds, 1, 1).

        Data divided by it have the resolution of `t_low`.
        """
        return torch.exp(self.log_std - self.start).unsqueeze(-1)

    @torch.no_grad()
    def follow(self, ring: Ring, visited: Tensor) -> None:
        """Takes a step towards `n_neighbours`.

        Args:
            ring: Holds the states to compare with.
            visited: States (n_seeds, batch, dim), of which some are looked at.
        """
        if not self.n_neighbours:
            return
        exponent = ring.exponents(visited[:, :N_COMPARED], self.precision())
        log_weight = exponent.log_softmax(-1).clamp_(min=-80)
        entropy = -(log_weight.exp() * log_weight).sum(-1).mean(-1, keepdim=True)
        wrong = (math.log(self.n_neighbours) - entropy).clamp(-1, 1)
        self.log_std += torch.where(ring.n_older() > self.n_neighbours, GAIN * wrong, 0.0)
