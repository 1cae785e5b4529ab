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
        ValueError: The task has no such field or number. The message lists those that it has.
    """
    places = {field.name: set(range(field.start, field.stop)) for field in spec.obs}
    for field in spec.obs:
        for i, entry in enumerate(field.entries or ()):
            places.setdefault(entry, {field.start + i})
    if unknown := [name for name in names if name not in places]:
        raise ValueError(
            f"reward.fields={list(names)}: no obs field or number {unknown[0]!r} in "
            f"{spec.name!r}; there are: {', '.join(places)}"
        )
    chosen = sorted(set().union(*(places[name] for name in names)))
    return chosen if names else list(range(spec.obs_dim))
