"""How a foreign policy's answers become commands: an action map, and what its metadata says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edp_robot.deploy.wrap.foreign_file import WrapError
from sim.core.action_map import ActionMap
from sim.core.spec import TaskSpec

MapName = Literal["task", "metadata", "limits", "none"]
MAP_HELP = {
    "task": "answers in [-1, 1], as the task's own action map takes them",
    "metadata": "target = default_joint_pos + action_scale * answer, from the file's metadata",
    "limits": "answers in [-1, 1], spread over each action's low to high",
    "none": "answers are commands already, in the units of the action fields",
}
METADATA_KEYS = ("action_scale", "default_joint_pos")


@dataclass(frozen=True)
class CommandMap:
    """The action map of a policy's answers.

    Attributes:
        action_map: Makes commands of answers; its limits are those of the action fields.
        normalised: Whether answers are clipped to [-1, 1] first.
    """

    action_map: ActionMap
    normalised: bool

    def unlimited(self, obs: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Returns the commands (n, horizon, act_dim) before they are clipped to the limits.

        The obs is (n, obs_dim), the answers (n, horizon, act_dim).
        """
        clipped = np.clip(answers, -1.0, 1.0) if self.normalised else answers
        return self.action_map.unlimited(obs.astype(np.float64), clipped.astype(np.float64))


def command_map(
    name: str, spec: TaskSpec | None, metadata: dict[str, str], low: np.ndarray, high: np.ndarray
) -> CommandMap:
    """Returns the map called `name`.

    Args:
        name: One of MAP_HELP.
        spec: The task, which `task` needs.
        metadata: The file's metadata; `metadata` needs METADATA_KEYS in it.
        low: Lowest command of each action (act_dim,); finite for `limits`.
        high: Highest command of each action (act_dim,); finite for `limits`.

    Raises:
        WrapError: What the map needs is not there.
    """
    limits = {"low": tuple(map(float, low)), "high": tuple(map(float, high))}
    if name == "task":
        if spec is None:
            raise WrapError("--action-map task needs --task; `edp tasks` lists them")
        return CommandMap(replace(spec.action_map, **limits), normalised=True)
    if name == "limits":
        if not np.isfinite((low, high)).all():
            raise WrapError(
                f"--action-map limits needs finite limits of every action, got {low} to {high}"
            )
        return CommandMap(ActionMap.spread(low, high), normalised=True)
    n = len(low)
    scale = numbers(metadata, "action_scale", n) if name == "metadata" else (1.0,) * n
    offset = numbers(metadata, "default_joint_pos", n) if name == "metadata" else (0.0,) * n
    direct = ActionMap("absolute", scale, offset, limits["low"], limits["high"])
    return CommandMap(direct, normalised=False)


def possible_maps(spec: TaskSpec | None, metadata: dict[str, str]) -> tuple[MapName, ...]:
    """Returns the names of the maps that are possible, the likeliest first."""
    maps: list[MapName] = ["metadata"] if set(METADATA_KEYS) <= set(metadata) else []
    return (*maps, *(("task",) if spec else ()), "none", "limits")


def texts(metadata: dict[str, str], key: str) -> tuple[str, ...]:
    """Returns the comma-separated entries of a metadata value, without brackets and quotes."""
    value = metadata.get(key)
    return tuple(part.strip(" []()'\"") for part in value.split(",")) if value else ()


def numbers(metadata: dict[str, str], key: str, n: int) -> tuple[float, ...]:
    """Returns the `n` numbers of a metadata value; a single one stands for all.

    Args:
        metadata: The file's metadata.
        key: Name of the value.
        n: How many numbers are expected.

    Raises:
        WrapError: There is no such value, or it does not hold 1 or `n` finite numbers.
    """
    if not metadata.get(key):
        raise WrapError(
            f"no metadata {key!r} in the file, which holds {sorted(metadata)}; "
            "choose another --action-map"
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
