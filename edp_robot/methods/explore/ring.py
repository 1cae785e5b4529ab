"""The newest states that were drawn from the replay, for non-parametric rewards."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ring(nn.Module):
    """Holds the last `size` states of each of `n_seeds` learners.

    `states` is (n_seeds, size, dim). `n_seen` counts all states ever added, `n_newest` those of the
    last call of `add`, so that a learner can compare them with the older ones. Shapes never change:
    `filled` says which places hold a state, and no call waits for a GPU.

    Args:
        n_seeds: Learners.
        size: States held for each.
        dim: Length of a state.
    """

    states: Tensor
    n_seen: Tensor
    n_newest: Tensor

    def __init__(self, n_seeds: int, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("states", torch.zeros(n_seeds, size, dim))
        self.register_buffer("n_seen", torch.tensor(0))
        self.register_buffer("n_newest", torch.tensor(0))

    @property
    def size(self) -> int:
        """Returns how many states it holds when full."""
        return self.states.shape[1]

    def add(self, obs: Tensor) -> None:
        """Adds states (n_seeds, batch, dim) over the oldest. It takes the first `size` of them."""
        n = min(obs.shape[1], self.size)
        self.states[:, (self.n_seen + torch.arange(n, device=obs.device)) % self.size] = obs[:, :n]
        self.n_seen += n
        self.n_newest.fill_(n)

    def filled(self) -> Tensor:
        """Returns which places hold a state (size,)."""
        return torch.arange(self.size, device=self.states.device) < self.n_seen

    def n_older(self) -> Tensor:
        """Returns how many states it holds besides the newest, a scalar."""
        return self.n_seen.clamp(max=self.size) - self.n_newest

    def older(self) -> Tensor:
        """Returns which places hold a state that is not one of the newest (size,)."""
        age = (self.n_seen - 1 - torch.arange(self.size, device=self.states.device)) % self.size
        return self.filled() & (age >= self.n_newest)

    def distance(self, obs: Tensor) -> Tensor:
        """Returns Euclidean distances (n_seeds, batch, size) of obs (n_seeds, batch, dim).

        The distance to an empty place is infinite.
        """
        return torch.cdist(obs, self.states).masked_fill_(~self.filled(), torch.inf)

    def exponents(self, x: Tensor, precision: Tensor) -> Tensor:
        """Returns -precision / 2 (||x - s_i||^2 - ||x||^2), (n_seeds, batch, size).

        It is -infinity for the newest states s_i and for empty places.

        Args:
            x: States (n_seeds, batch, dim).
            precision: 1 / variance of the noise (n_seeds, 1).
        """
        own = self.states.square().sum(-1) * (-0.5 * precision)
        own = own.masked_fill_(~self.older(), -torch.inf)
        states = self.states.transpose(-1, -2)
        return torch.baddbmm(own.unsqueeze(-2), x * precision.unsqueeze(-1), states)
