"""Where in the observation an intrinsic reward looks for new states."""

from __future__ import annotations

from sim.core.spec import TaskSpec


def novelty_columns(spec: TaskSpec, names: tuple[str, ...]) -> list[int]:
    """Returns the indices of what `names` names in the obs, or all indices if there are none.

    Args:
        spec: The task.
        names: Names of observation fields, like "end_effector", or of single numbers by their
            entries, like "end_effector.z".

    Raises:
        KeyError: The task has no such field or number. The message lists those that it has.
    """
    entries = {
        entry: field.start + i for field in spec.obs for i, entry in enumerate(field.entries or ())
    }
    every = list(range(spec.obs_dim))
    chosen: set[int] = set()
    for name in names:
        chosen |= {entries[name]} if name in entries else set(every[spec.obs_slice(name)])
    return sorted(chosen) if names else every
