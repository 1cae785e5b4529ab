"""What a task is, apart from its physics: named fields, units, limits, and how an action becomes a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class FieldSpec:
    """One named slice of an observation or action vector, with unit and limits per element.

    `low` and `high` may be infinite where the world sets no limit. `max_rate` is in units per second.
    """

    name: str
    start: int
    stop: int
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_rate: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        n = self.stop - self.start
        if n < 1 or len(self.low) != n or len(self.high) != n:
            raise ValueError(
                f"field {self.name!r}: {n} elements, but {len(self.low)} lows and {len(self.high)} highs"
            )


def tile(*parts: tuple) -> tuple[FieldSpec, ...]:
    """Returns consecutive fields from (name, unit, low, high[, max_rate]) rows; scalars stand for one element."""
    fields, start = [], 0
    for name, unit, low, high, *rate in parts:
        low, high = np.atleast_1d(low), np.atleast_1d(high)
        max_rate = tuple(np.broadcast_to(rate[0], low.shape).tolist()) if rate else None
        stop = start + len(low)
        fields.append(
            FieldSpec(name, start, stop, unit, tuple(low.tolist()), tuple(high.tolist()), max_rate)
        )
        start = stop
    return tuple(fields)


@dataclass(frozen=True)
class ActionMap:
    """How a normalised action a in [-1, 1]^act_dim becomes a command in physical units.

    `absolute`: command = offset + scale * a. `increment`: command = previous command + scale * a each control period,
    where the previous command stands in the observation from `command_start` on. Both end clipped to [low, high].
    """

    kind: Literal["absolute", "increment"]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    command_start: int = -1

    def chunk(self, obs: np.ndarray, action: np.ndarray, n_action_steps: int) -> np.ndarray:
        """Returns the commands (n, n_action_steps, act_dim) of holding action (n, act_dim) from obs (n, obs_dim)."""
        scale, offset = np.asarray(self.scale), np.asarray(self.offset)
        if self.kind == "absolute":
            command = np.repeat((offset + scale * action)[:, None], n_action_steps, 1)
        else:
            base = obs[:, self.command_start : self.command_start + len(scale)]
            k = np.arange(1, n_action_steps + 1)[None, :, None]
            command = base[:, None] + k * (scale * action)[:, None]
        return np.clip(command, self.low, self.high)

    def action(self, obs: np.ndarray, chunk: np.ndarray) -> np.ndarray:
        """Returns the normalised action (n, act_dim) whose `chunk` starts like this one (n, horizon, act_dim).

        Where the first command was clipped, the action is the one that just reaches the limit.
        """
        base = obs[:, self.command_start : self.command_start + len(self.scale)]
        start = base if self.kind == "increment" else np.asarray(self.offset)
        return np.clip((chunk[:, 0] - start) / np.asarray(self.scale), -1.0, 1.0)


@dataclass(frozen=True)
class TaskSpec:
    """A task's contract with the learner, the exporter and the robot.

    `reward` and `success` map observations (n, obs_dim) to (n,) where they are functions of the observation alone
    (then old data can be relabelled for a new task), else None. `success_when`: reached at any step, or at the last.
    """

    name: str
    obs: tuple[FieldSpec, ...]
    action: tuple[FieldSpec, ...]
    action_map: ActionMap
    control_period_s: float
    episode_steps: int
    reward: Callable[[np.ndarray], np.ndarray] | None = None
    success: Callable[[np.ndarray], np.ndarray] | None = None
    success_when: Literal["any", "end"] = "any"

    @property
    def obs_dim(self) -> int:
        """Length of the observation vector."""
        return self.obs[-1].stop

    @property
    def act_dim(self) -> int:
        """Length of the action vector."""
        return self.action[-1].stop

    def obs_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (low, high), each (obs_dim,), infinite where unknown."""
        return tuple(np.concatenate([getattr(f, k) for f in self.obs]) for k in ("low", "high"))  # type: ignore[return-value]

    def obs_slice(self, name: str) -> slice:
        """Returns the slice of the observation field `name`."""
        for field in self.obs:
            if field.name == name:
                return slice(field.start, field.stop)
        raise KeyError(
            f"no observation field {name!r} in {self.name!r}; there are {[f.name for f in self.obs]}"
        )
