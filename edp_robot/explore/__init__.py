"""Intrinsic rewards: what pays for going somewhere new. One file each, one interface (`IntrinsicReward`)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class IntrinsicReward(Protocol):
    """What the pre-training learner needs of an intrinsic reward."""

    def update(self, obs: Tensor) -> dict[str, float]:
        """Fits the novelty model to visited observations (batch, obs_dim), normalised; returns metrics."""
        ...

    def reward(self, obs: Tensor) -> Tensor:
        """Returns the intrinsic reward (batch,) of observations (batch, obs_dim), normalised; no gradient."""
        ...
