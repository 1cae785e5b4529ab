"""Where in the observation an intrinsic reward looks for new states."""

from __future__ import annotations

from sim.core.spec import TaskSpec


def novelty_columns(spec: TaskSpec, fields: tuple[str, ...]) -> list[int]:
    """Returns the indices of the observation fields `fields`, or all indices if it is empty.

    Raises:
        KeyError: The task has no such field. The message lists those that it has.
    """
    every = list(range(spec.obs_dim))
    chosen = sorted(i for name in fields for i in every[spec.obs_slice(name)])
    return chosen if fields else every
