"""What a task is, apart from its physics: fields, units, limits, action map, reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from policy_server.contract.field import Field, limits
from sim.core.action_map import ActionMap
from sim.core.coverage import Coverage

ObsFn = Callable[[np.ndarray], np.ndarray]  # obs (n, obs_dim) -> (n,)


class Part(NamedTuple):
    """A field before its place in the vector is known. A scalar limit stands for one number.

    Attributes:
        name: Name of the field, like "joint_pos".
        unit: Physical unit, like "rad"; "1" for a number without a unit.
        low: Smallest value of each number [unit]; -inf where the world sets no limit.
        high: Largest value of each number [unit]; inf where the world sets no limit.
        max_rate: Fastest change of each number [unit/s], or one for all. None: no limit.
        entries: Name of each number, as the robot calls its feature. None: unknown.
    """

    name: str
    unit: str
    low: Any
    high: Any
    max_rate: Any = None
    entries: tuple[str, ...] | None = None


def tile(*parts: tuple) -> tuple[Field, ...]:
    """Returns consecutive fields, one for each `Part` (or tuple in a Part's order)."""
    fields: list[Field] = []
    for part in (Part(*values) for values in parts):
        low = np.atleast_1d(part.low)
        high = np.broadcast_to(part.high, low.shape)
        start = fields[-1].stop if fields else 0
        rate = None if part.max_rate is None else np.broadcast_to(part.max_rate, low.shape)
        fields.append(
            Field(
                name=part.name,
                start=start,
                stop=start + len(low),
                unit=part.unit,
                low=tuple(low.tolist()),
                high=tuple(high.tolist()),
                max_rate=None if rate is None else tuple(rate.tolist()),
                entries=part.entries,
            )
        )
    return tuple(fields)


@dataclass(frozen=True)
class TaskSpec:
    """A task's contract with the learner, the exporter and the robot.

    Attributes:
        name: Name of the task.
        obs: Fields of the obs, in order, without gaps.
        action: Fields of the command, in order, without gaps.
        action_map: Makes commands of actions in [-1, 1].
        control_period_s: Time between two commands [s].
        episode_steps: Control steps in an episode, after which it is truncated.
        reward: Reward (n,) of obs (n, obs_dim). None where it does not follow from the obs alone;
            then old data cannot be relabelled.
        success: Success (n,) bool of obs (n, obs_dim). None as for `reward`.
        success_when: Whether success counts at any step, or at the last.
        terminated: (n,) bool of obs (n, obs_dim): the episode ends here. None: only time ends it.
        hold: Control steps that presets hold an action for.
        domain: Family of the task, like "arm". Presets are chosen by it.
        new_coverage: Returns a counter of what one learner visits. None: the task has no such
            measure.
        novelty_fields: Names of the obs fields, or of single numbers by their entries, on which
            exploration looks for new states. Empty: on all.
        explored: Fields of the numbers that exploration is measured by and no policy sees, which
            the environment gives as `infos["explored"]`. Empty: coverage is counted on the obs.
        max_copies: Copies that an evaluation makes at most at once. None: they share one world and
            cost little.
    """

    name: str
    obs: tuple[Field, ...]
    action: tuple[Field, ...]
    action_map: ActionMap
    control_period_s: float
    episode_steps: int
    reward: ObsFn | None = None
    success: ObsFn | None = None
    success_when: Literal["any", "end"] = "any"
    terminated: ObsFn | None = None
    hold: int = 1
    domain: str = ""
    new_coverage: Callable[[], Coverage] | None = None
    novelty_fields: tuple[str, ...] = ()
    explored: tuple[Field, ...] = ()
    max_copies: int | None = None

    @property
    def obs_dim(self) -> int:
        """Length of the obs vector."""
        return self.obs[-1].stop

    @property
    def act_dim(self) -> int:
        """Length of the action vector."""
        return self.action[-1].stop

    def obs_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (low, high), each (obs_dim,) float64, infinite where unknown."""
        return limits(self.obs)

    def obs_slice(self, name: str) -> slice:
        """Returns where the obs field `name` stands.

        Raises:
            KeyError: There is no such field.
        """
        for field in self.obs:
            if field.name == name:
                return slice(field.start, field.stop)
        raise KeyError(
            f"no obs field {name!r} in {self.name!r}; there are {[f.name for f in self.obs]}"
        )

    @cached_property
    def max_change(self) -> np.ndarray | None:
        """Largest change of each command in one control step (act_dim,), inf for no limit.

        None where no command has a limit.
        """
        rates = [field.max_rate or (np.inf,) * len(field) for field in self.action]
        change = np.concatenate(rates) * self.control_period_s
        return change if np.isfinite(change).any() else None

    def limited(self, previous: np.ndarray, commands: np.ndarray) -> np.ndarray:
        """Returns the commands (n, act_dim) as a robot's limiter lets them through.

        They stay between the low and high of their field, and move no faster than its `max_rate`
        from the previous commands (n, act_dim).
        """
        return self.no_faster(previous, np.clip(commands, *limits(self.action)))

    def no_faster(self, previous: np.ndarray, commands: np.ndarray) -> np.ndarray:
        """Returns the commands (n, act_dim), moved by at most `max_change` from the previous."""
        change = self.max_change
        if change is None:
            return commands
        return np.minimum(np.maximum(commands, previous - change), previous + change)
