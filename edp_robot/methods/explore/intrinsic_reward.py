"""What every intrinsic reward has in common: an error a state, scaled to a reward by its running moments."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IntrinsicReward(nn.Module):
    """Pays for states of `n_seeds` learners at once; observations come normalised, (n_seeds, batch, obs_dim).

    A subclass writes `error` (how new a state is) and `update` (learn that these states have been seen).

    Args:
        n_seeds: learners side by side.
        centre: subtract the running mean too: an actor on a bounded horizon then seeks what pays more than average.
    """

    mean: Tensor
    mean_square: Tensor
    n_updates: Tensor
    memory = 100  # calls that the running moments look back on

    def __init__(self, n_seeds: int, centre: bool) -> None:
        super().__init__()
        self.n_seeds, self.centre = n_seeds, centre
        for name in ("mean", "mean_square", "n_updates"):
            self.register_buffer(name, torch.zeros(n_seeds))

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Learns that obs (n_seeds, batch, obs_dim) were visited; returns metrics (n_seeds,)."""
        raise NotImplementedError

    def error(self, obs: Tensor) -> Tensor:
        """Returns how new each state is (n_seeds, batch), larger for newer, not yet scaled."""
        raise NotImplementedError

    @torch.no_grad()
    def reward(self, obs: Tensor) -> Tensor:
        """Returns the error over its running standard deviation (n_seeds, batch); less its running mean if centred."""
        error = self.error(obs)
        self.n_updates += 1
        rate = torch.clamp(1 / self.n_updates, min=1 / self.memory)
        self.mean += rate * (error.mean(-1) - self.mean)
        self.mean_square += rate * (error.square().mean(-1) - self.mean_square)
        std = (self.mean_square - self.mean.square()).clamp(min=1e-8).sqrt().unsqueeze(-1)
        return (error - self.mean.unsqueeze(-1)) / std if self.centre else error / std

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns its optimizers by name."""
        return {}
