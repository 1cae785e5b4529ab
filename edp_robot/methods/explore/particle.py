"""Particle entropy (RE3, arXiv 2102.09430; APT, arXiv 2103.04551): the distance to the k-th nearest visited state."""

from __future__ import annotations

import torch
from torch import Tensor

from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward
from edp_robot.methods.explore.ring import Ring


class Particle(IntrinsicReward):
    """R(s) = mean over k nearest of log(1 + ||s - s_i||), s_i among the last `n_particles` states that were drawn.

    Distances are those of the normalised observation: our observations are low-dimensional, so that the random encoder
    of RE3 would add nothing.
    """

    def __init__(
        self,
        obs_dim: int,
        *,
        n_seeds: int = 1,
        n_neighbours: int = 3,
        n_particles: int = 1024,
        centre: bool = False,
    ) -> None:
        super().__init__(n_seeds, centre)
        if not 1 <= n_neighbours < n_particles:
            raise ValueError(
                f"n_neighbours={n_neighbours}: give a number from 1 to n_particles - 1 = {n_particles - 1}"
            )
        self.n_neighbours = n_neighbours
        self.ring = Ring(n_seeds, n_particles, obs_dim)

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Puts visited states into the ring of particles; nothing is learned."""
        self.ring.add(obs)
        return {}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns the entropy reward (n_seeds, batch); 0 until n_neighbours + 1 particles are there.

        The nearest particle is left out: a state of the replay may itself be among them.
        """
        nearest = self.ring.distance(obs).topk(self.n_neighbours + 1, largest=False).values[..., 1:]
        entropy = torch.log1p(nearest).mean(-1)
        return torch.where(self.ring.n_seen > self.n_neighbours, entropy, 0.0)
