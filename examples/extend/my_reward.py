"""An intrinsic reward of your own: states are hashed and counted, and rare hashes pay.

    edp pretrain --method my_reward:HashCount --set reward.n_bits=12 --out runs/explored

Run it in the folder of this file. No other file names it: `Config` and the class say all that the
command line, a resumed run and the export need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edp_robot import IntrinsicReward


@dataclass(frozen=True)
class HashConfig:
    """Settings, which `--set reward.NAME=VALUE` changes and config.json holds.

    `n_bits` of a hash give 2^n_bits counters. `scale` is how many hyperplanes a unit of the
    normalised observation crosses, roughly: larger tells nearer states apart.
    """

    n_bits: int = 10
    scale: float = 4.0

    def __post_init__(self) -> None:
        if not 1 <= self.n_bits <= 20:
            raise ValueError(f"n_bits={self.n_bits}: give a number from 1 to 20")


class HashCount(IntrinsicReward):
    """R(s) = 1 / sqrt(n(hash(s)) + 1) with a random sign hash (Tang et al., arXiv 1611.04717)."""

    Config = HashConfig
    counts: Tensor
    planes: Tensor
    offsets: Tensor
    values: Tensor

    def __init__(self, spec, config: HashConfig, **learners) -> None:
        super().__init__(spec, config, **learners)
        # Buffers are in the checkpoint, so a resumed run goes on with the same hash and counts.
        self.register_buffer("counts", torch.zeros(self.n_seeds, 2**config.n_bits))
        self.register_buffer("planes", config.scale * torch.randn(spec.obs_dim, config.n_bits))
        self.register_buffer("offsets", 2 * torch.pi * torch.rand(config.n_bits))
        self.register_buffer("values", 2 ** torch.arange(config.n_bits))

    def code(self, obs: Tensor) -> Tensor:
        """Returns the hash (n_seeds, batch) of normalised observations."""
        bits = torch.sin(obs @ self.planes + self.offsets) > 0
        return (bits * self.values).sum(-1)

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Counts visited states (n_seeds, batch, obs_dim); returns the share of hashes seen."""
        code = self.code(obs)
        self.counts.scatter_add_(1, code, torch.ones_like(code, dtype=self.counts.dtype))
        return {"hashes_seen": (self.counts > 0).float().mean(-1)}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns how new each state is (n_seeds, batch)."""
        return torch.rsqrt(self.counts.gather(1, self.code(obs)) + 1)
