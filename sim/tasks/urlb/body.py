"""What the bodies of URLB share, and the rewards of what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from typing import NamedTuple

import mujoco
import numpy as np

from sim.core.registry import TASKS
from sim.tasks.mujoco_task import MujocoTask, Starts, draw_starts
from sim.tasks.urlb.measured import Measured, Readings

Reward = Callable[[Measured], np.ndarray]


class Paid(NamedTuple):
    """The reward of a task.

    Attributes:
        reward: Returns the reward (n,) of what is measured.
        hidden: What it needs that the obs does not tell: `command`, `height`, or `mass` (which is
            known unless the copies differ in it). None: the reward is a function of the obs, so
            that old data can be relabelled.
    """

    reward: Reward
    hidden: str | None = None


class Body(MujocoTask):
    """A body of URLB: a task without reward, or with one of its domain's rewards.

    Its sensors are read as dm_control reads them, and its episodes begin as dm_control's do. A
    subclass defines `world`, and either `qpos` and `qvel` or `seen_in`.

    Args:
        name: Name of the task.
        paid: Its reward. None: there is none.

    Attributes:
        tells: What else is known wherever an obs is known; see `Paid.hidden`.
    """

    sensors_at_end = True
    action_unit = "1"
    episode_steps = 1000
    tells: tuple[str | None, ...] = (None, "mass")

    def __init__(self, name: str, paid: Paid | None = None) -> None:
        self.name = name
        self._paid = paid
        if paid:
            self.measured_reward = self._measured_reward
            self.reward = self._reward_of_obs if paid.hidden in self.tells else None

    @classmethod
    def world(cls) -> mujoco.MjSpec:
        """Returns dm_control's model, with sensors for all that is observed and paid."""
        raise NotImplementedError

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The compiled world, one for all tasks of a body."""
        return self.compiled()

    @classmethod
    def compiled(cls) -> mujoco.MjModel:
        """Returns the compiled `world`."""
        return _compiled(cls)

    @cached_property
    def starts(self) -> Starts:
        """Start states and their readings, the same for all tasks of a body."""
        return _drawn(type(self))

    def measured(self, rows: np.ndarray, command: np.ndarray | None = None) -> Measured:
        """Returns readings (n, n_readings) and commands (n, nu) by name."""
        return Measured(self.model, rows, command)

    def qvel(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint velocities (n, nv) of obs (n, obs_dim)."""
        raise NotImplementedError

    def seen_in(self, obs: np.ndarray) -> Measured:
        """Returns what was measured when obs (n, obs_dim) were seen, as far as rewards need it."""
        return self.measured(self._simulator(self.qpos(obs), self.qvel(obs)))

    def _measured_reward(self, rows: np.ndarray, command: np.ndarray) -> np.ndarray:
        assert self._paid
        return self._paid.reward(self.measured(rows, command))

    def _reward_of_obs(self, obs: np.ndarray) -> np.ndarray:
        assert self._paid
        return self._paid.reward(self.seen_in(obs))

    @cached_property
    def _simulator(self) -> Readings:
        return Readings(self.model)


@cache
def _compiled(form: type[Body]) -> mujoco.MjModel:
    return form.world().compile()


@cache
def _drawn(form: type[Body]) -> Starts:
    body = form("")
    return draw_starts(body.model, body.place)


def register(form: Callable[..., Body], tasks: Mapping[str, Paid | None]) -> None:
    """Registers the tasks of a body, each by its name and reward."""
    for name, paid in tasks.items():
        TASKS.register(name)(partial(form, name, paid))


def at_least(values: np.ndarray, low: float, margin: float, at_margin: float = 0.0) -> np.ndarray:
    """Returns 1 where values (n,) reach `low`, and less in a straight line below.

    Args:
        values: Of any unit.
        low: Where the full reward begins.
        margin: A distance below it.
        at_margin: What is returned at that distance. The line ends where it reaches 0.
    """
    return np.clip(1 - (1 - at_margin) * (low - values) / margin, 0.0, 1.0)


def near(distance: np.ndarray, margin: float) -> np.ndarray:
    """Returns a Gaussian of distances (n,): 1 at 0 and below, .1 at `margin`."""
    return np.exp(np.log(0.1) * (np.maximum(distance, 0.0) / margin) ** 2)
