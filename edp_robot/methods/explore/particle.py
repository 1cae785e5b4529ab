"""Particle entropy (RE3, arXiv 2102.09430; APT, arXiv 2103.04551)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edp_robot.methods.explore.intrinsic_reward import INTRINSIC_REWARDS, IntrinsicReward
from edp_robot.methods.explore.novelty import novelty_columns
from edp_robot.methods.explore.ring import Ring
from edp_robot.methods.ranges import Ranged
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class ParticleConfig(Ranged):
    """How many states are held, and how many of the nearest count.

    Distances are measured on the observation fields named in `fields`, or on all of them if it is
    empty.
    """

    n_neighbours: int = 3
    n_particles: int = 1024
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = self.n_neighbours
        most = self.n_particles - 1
        if not 1 <= n <= most:
            raise ValueError(f"n_neighbours={n}: give a number from 1 to n_particles - 1 = {most}")
        super().__post_init__()


@INTRINSIC_REWARDS.register("particle")
class Particle(IntrinsicReward):
    """R(s) = mean over the k nearest of log(1 + ||s - s_i||), s_i the newest states drawn.

    Distances are those of the normalised observation. Our observations have few dimensions, so
    RE3's random encoder would add nothing.
    """

    Config = ParticleConfig
    recordable = True
    columns: Tensor

    def __init__(self, spec: TaskSpec, config: ParticleConfig, **learners: Any) -> None:
        super().__init__(spec, config, **learners)
        self.n_neighbours = config.n_neighbours
        columns = novelty_columns(spec, config.fields)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.ring = Ring(self.n_seeds, config.n_particles, len(columns))

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Puts visited states into the ring of particles; learns nothing."""
        self.ring.add(obs[..., self.columns])
        return {}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns the entropy reward (n_seeds, batch); 0 until n_neighbours + 1 particles exist.

        The nearest particle does not count, because a state of the replay may be that particle.
        """
        distance = self.ring.distance(obs[..., self.columns])
        nearest = distance.topk(self.n_neighbours + 1, largest=False).values[..., 1:]
        entropy = torch.log1p(nearest).mean(-1)
        return torch.where(self.ring.n_seen > self.n_neighbours, entropy, 0.0)
