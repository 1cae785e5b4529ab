"""A history of observations: which ones a policy sees, and in which order they lie in its input.

The convention is that of mjlab and Isaac Lab: the oldest first, and at the start of an episode the
first observation stands for all earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edp_robot.deploy.wrap.foreign_file import WrapError

Order = Literal["term", "step"]
ORDER_HELP = {
    "term": "all steps of the first field, then all of the second (mjlab, Isaac Lab)",
    "step": "all fields of the oldest step, then all of the next",
}


@dataclass(frozen=True)
class History:
    """The last `n` observations as one input.

    Attributes:
        n: Observations that the policy sees, the newest included.
        obs_dim: Length of one observation.
        order: For each number of the input, its index in the observations, the oldest first.
    """

    n: int
    obs_dim: int
    order: np.ndarray

    @property
    def state_dim(self) -> int:
        """Length of the state that keeps it: whether there is any, and the earlier observations."""
        return 1 + (self.n - 1) * self.obs_dim

    def seen(self, obs: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the input after the observations (n_rows, obs_dim) of an episode so far."""
        steps = [obs[max(i, 0)] for i in range(len(obs) - self.n, len(obs))]
        return np.concatenate(steps, axis=1)[:, self.order]


def history(sizes: Sequence[int], lengths: Sequence[int], order: str | None) -> History | None:
    """Returns the history of fields, or None where each is seen once.

    Args:
        sizes: Numbers in each field.
        lengths: How many observations of it the policy sees.
        order: "term" or "step". It may be None for a single field.

    Raises:
        WrapError: The fields have different lengths in the order "step".
    """
    n = max(lengths)
    if n == 1:
        return None
    if order == "step" and len(set(lengths)) > 1:
        raise WrapError(
            f"history order step with lengths {list(lengths)}: expected the same for all fields"
        )
    obs_dim = sum(sizes)
    steps = np.arange(n * obs_dim).reshape(n, obs_dim)
    starts = np.cumsum([0, *sizes])
    terms = [
        steps[n - length :, start : start + size].ravel()
        for start, size, length in zip(starts, sizes, lengths, strict=False)
    ]
    index = steps.ravel() if order == "step" else np.concatenate(terms)
    return History(n, obs_dim, index)
