"""A task of one step whose observation has whatever limits and values a test wants."""

from functools import cached_property

import numpy as np

from sim.core.action_map import ActionMap
from sim.core.spec import Part, TaskSpec, tile
from sim.core.vec import SameStepVectorEnv


def name(low, high, first=6.0, last=20.0):
    """Returns the task's name: g in [first, last], and low and high as its limits."""
    return f"support.one_step:OneStep?low={low}&high={high}&first={first}&last={last}"


def right_action(g, first, last):
    """Returns the action in [-1, 1] that says where g lies in [first, last]."""
    return ((2 * np.asarray(g, np.float64) - first - last) / (last - first)).astype(np.float32)


class OneStep:
    """Observation g in [first, last], and a place that stands still at 3. Success: g is named.

    Args:
        low: Lower limit that g's field claims.
        high: Upper limit that g's field claims.
        first: Smallest g.
        last: Largest g.
    """

    def __init__(self, low: float, high: float, first: float = 6.0, last: float = 20.0):
        self.low = low
        self.high = high
        self.values = (first, last)

    @cached_property
    def spec(self):
        """Fields g and place, action in [-1, 1]."""
        return TaskSpec(
            name=name(self.low, self.high, *self.values),
            obs=tile(Part("g", "1", self.low, self.high), Part("place", "m", -5.0, 5.0)),
            action=tile(Part("choice", "1", -1.0, 1.0)),
            action_map=ActionMap.spread(-np.ones(1), np.ones(1)),
            control_period_s=1.0,
            episode_steps=1,
        )

    def make_vec(self, n_envs, seed):
        """Returns `n_envs` copies."""
        return OneStepVecEnv(self.spec, n_envs, seed, self.values)


class OneStepVecEnv(SameStepVectorEnv):
    """Copies of the task; pays 1 less the distance from the right action."""

    def __init__(self, spec, n_envs, seed, values):
        super().__init__(spec, n_envs, seed)
        self.values = values
        self.g = np.zeros(n_envs)

    def _start(self, rows):
        self.g[rows] = self.rng.uniform(*self.values, len(rows))

    def _observe(self):
        return np.stack([self.g, np.full(self.num_envs, 3.0)], 1)

    def _advance(self, command):
        error = np.abs(command[:, 0] - right_action(self.g, *self.values))
        return 1 - error, np.zeros(self.num_envs, bool), {"success": error < 0.1}

    def get_state(self):
        """Returns the shared state and g (n,)."""
        return {**super().get_state(), "g": self.g.copy()}

    def set_state(self, saved):
        """Goes back to what `get_state` returned."""
        super().set_state(saved)
        self.g = np.array(saved["g"])
