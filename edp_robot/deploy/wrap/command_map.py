"""How a foreign policy's answer becomes a command in physical units: as numbers here, as nodes in `wrap_graph`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edp_robot.deploy.wrap.foreign_file import WrapError
from sim.core.spec import TaskSpec

MapName = Literal["task", "metadata", "limits", "none"]
MAP_HELP = {
    "task": "answers in [-1, 1], as the task's own action map takes them",
    "metadata": "target = default_joint_pos + action_scale * answer, from the file's metadata",
    "limits": "answers in [-1, 1], spread over each action's low to high",
    "none": "answers are commands already, in the units of the action fields",
}
METADATA_KEYS = ("action_scale", "default_joint_pos")  # scale and offset of `metadata`


@dataclass(frozen=True)
class CommandMap:
    """command = base + scale * answer, clipped to the action's limits.

    `absolute`: base is `offset`. `increment`: base is the previous command, which stands in the observation from
    `command_start` on, and the answers of a horizon add up. `normalised`: answers are clipped to [-1, 1] first.
    """

    kind: Literal["absolute", "increment"]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    normalised: bool
    command_start: int = -1

    def apply(self, obs: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Returns commands (n, horizon, act_dim) float64, not yet clipped, for answers of that shape."""
        answer = answer.astype(np.float64)
        moved = np.asarray(self.scale) * (np.clip(answer, -1.0, 1.0) if self.normalised else answer)
        if self.kind == "absolute":
            return np.asarray(self.offset) + moved
        base = obs[:, self.command_start : self.command_start + len(self.scale)].astype(np.float64)
        return base[:, None] + np.cumsum(moved, 1)


def command_map(
    name: MapName,
    spec: TaskSpec | None,
    metadata: dict[str, str],
    low: tuple[float, ...],
    high: tuple[float, ...],
) -> CommandMap:
    """Returns the map called `name`.

    Args:
        name: One of MAP_HELP.
        spec: The task, which `task` needs.
        metadata: The file's, of which `metadata` needs action_scale and default_joint_pos.
        low: The action's limits, (act_dim,); `limits` needs them finite.
        high: The same.

    Raises:
        WrapError: What it needs is not there.
    """
    n = len(low)
    if name == "task":
        if spec is None:
            raise WrapError("--action-map task needs --task; `edp tasks` lists them")
        m = spec.action_map
        return CommandMap(m.kind, m.scale, m.offset, True, m.command_start)
    if name == "metadata":
        scale, offset = (numbers(metadata, key, n) for key in METADATA_KEYS)
        return CommandMap("absolute", scale, offset, False)
    if name == "limits":
        if not np.isfinite((low, high)).all():
            raise WrapError(
                f"--action-map limits needs finite limits of every action, got {low} to {high}"
            )
        half, middle = (np.array(high) - low) / 2, (np.array(high) + low) / 2
        return CommandMap("absolute", tuple(half.tolist()), tuple(middle.tolist()), True)
    return CommandMap("absolute", (1.0,) * n, (0.0,) * n, False)


def possible_maps(spec: TaskSpec | None, metadata: dict[str, str]) -> tuple[MapName, ...]:
    """Returns the maps that what is known allows, the likeliest first."""
    has_metadata = set(METADATA_KEYS) <= set(metadata)
    return (
        *(("metadata",) if has_metadata else ()),
        *(("task",) if spec else ()),
        "none",
        "limits",
    )


def texts(metadata: dict[str, str], key: str) -> tuple[str, ...]:
    """Returns the comma-separated entries of a metadata value, brackets and quotes stripped; () where missing."""
    return (
        tuple(part.strip(" []()'\"") for part in metadata[key].split(","))
        if metadata.get(key)
        else ()
    )


def numbers(metadata: dict[str, str], key: str, n: int) -> tuple[float, ...]:
    """Returns the `n` numbers of a metadata value; one stands for all.

    Raises:
        WrapError: There is no such value, it holds no numbers, or another number of them.
    """
    if not metadata.get(key):
        raise WrapError(
            f"no metadata {key!r} in the file, which holds {sorted(metadata)}; choose another --action-map"
        )
    try:
        values = tuple(map(float, texts(metadata, key)))
    except ValueError as error:
        raise WrapError(
            f"metadata {key} {metadata[key]!r}: expected numbers separated by commas"
        ) from error
    if len(values) not in (1, n) or not np.isfinite(values).all():
        raise WrapError(
            f"metadata {key} holds {len(values)} numbers, the policy answers {n}; expected 1 or {n}"
        )
    return values * n if len(values) == 1 else values
