"""Many copies of one MuJoCo model as a vector environment, stepped by mujoco.rollout."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import mujoco
import numpy as np
from gymnasium.spaces import Box
from mujoco import rollout

from sim.core import readings
from sim.core.spec import TaskSpec
from sim.core.vec import SameStepVectorEnv

SMALL_BATCH = 8  # fewer simulations than this are not worth waking threads for
MARGIN = 0.25  # soft joint limits and fast falls go a little beyond the nominal range


class MujocoBatch(SameStepVectorEnv):
    """`n_envs` simulations of one world; see `sim.core.vec`.

    `infos["success"]` (n,) is the task's success at this step, where the task has one.
    `infos["explored"]` (n, k) float32 is what exploration is measured by, likewise.

    Args:
        spec: The task's contract.
        model: The compiled world.
        n_envs: Number of simulations.
        seed: Seeds the start states.
        starts: Start states (m, state) and their readings (m, n_readings).
        start_command: Returns the commands (n, nu) before the first, for the readings of starts.
        observe: Returns obs (n, obs_dim) of readings (n, n_readings) and commands (n, nu).
        n_substeps: Physics steps in one control step.
        sensors_at_end: Whether sensors of position and velocity, or all, are read at the end of the
            control step instead of one physics step before it.
        measured_reward: Reward (n,) of readings and commands, instead of the spec's reward of obs.
        explored: Returns the numbers (n, k) of readings and commands that exploration is measured
            by. None: there are none but the obs.
        worlds: Worlds like `model`. Each episode is in one of them, drawn at its start; episodes
            that start at once have them in turn. One or none: all are in `model`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        model: mujoco.MjModel,
        n_envs: int,
        seed: int,
        *,
        starts: tuple[np.ndarray, np.ndarray],
        start_command: Callable[[np.ndarray], np.ndarray],
        observe: Callable[[np.ndarray, np.ndarray], np.ndarray],
        n_substeps: int,
        sensors_at_end: bool | Literal["all"] = False,
        measured_reward: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        explored: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        worlds: Sequence[mujoco.MjModel] = (),
    ) -> None:
        super().__init__(spec, n_envs, seed, _obs_space(spec))
        self.model = model
        self._starts = starts
        self._start_command = start_command
        self._obs_of = observe
        self._n_substeps = n_substeps
        self._late = readings.at_the_end(model, sensors_at_end) if sensors_at_end else None
        self._measured_reward = measured_reward
        self._explored = explored
        self._worlds = worlds or (model,)
        apart = sensors_at_end is True
        self._still = tuple(map(readings.without_contacts, self._worlds)) if apart else ()
        self._n_steps = n_substeps + 1 if sensors_at_end == "all" else n_substeps
        self._world = np.zeros(n_envs, np.int64)
        n_threads = min(allowed_threads(), n_envs) if n_envs >= SMALL_BATCH else 1
        self._datas = [mujoco.MjData(model) for _ in range(n_threads)]
        self._rollout = rollout.Rollout(nthread=n_threads if n_threads > 1 else 0)
        self._state = np.zeros((n_envs, starts[0].shape[1]))
        self._sensor = np.zeros((n_envs, starts[1].shape[1]))

    def _start(self, rows: np.ndarray) -> None:
        """Puts the simulations `rows` (k,) into states drawn from the starts."""
        states, sensors = self._starts
        chosen = self.rng.integers(len(states), size=len(rows))
        self._state[rows] = states[chosen]
        self._sensor[rows] = sensors[chosen]
        self.command[rows] = self._start_command(sensors[chosen])
        n_worlds = len(self._worlds)
        if n_worlds > 1:
            self._world[rows] = (rows + self.rng.integers(n_worlds)) % n_worlds

    def _observe(self) -> np.ndarray:
        return self._obs_of(self._sensor, self.command)

    def _advance(self, command: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        self._state, sensor = self._simulated(command)
        self._sensor = readings.readings(self.model, self._state, sensor)
        obs = self._observe()
        spec = self.task_spec
        reward = self._reward(obs)
        infos = {"success": np.asarray(spec.success(obs))} if spec.success else {}
        if self._explored:
            infos["explored"] = np.asarray(self._explored(self._sensor, self.command), np.float32)
        ended = spec.terminated(obs) if spec.terminated else np.zeros(self.num_envs, bool)
        return reward, ended, infos

    def _simulated(self, command: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the states (n, state) after a control step, and its readings of sensors.

        The sensors are those of the last physics step. Those that are read at the end come of one
        physics step more, whose state is left out.
        """
        last = self._n_substeps - 1
        states, sensors = self._rolled(self._worlds, self._state, command, self._n_steps)
        state = states[:, last].copy()
        sensor = sensors[:, last].copy()
        if self._late is not None:
            if self._still:
                _, sensors = self._rolled(self._still, state, command, 1)
            sensor[:, self._late] = sensors[:, -1, self._late]
        return state, sensor

    def _rolled(
        self, worlds: Sequence[mujoco.MjModel], state: np.ndarray, command: np.ndarray, n_steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns states and readings of sensors, (n, n_steps, ..), from `state` (n, state) on."""
        models = [worlds[i] for i in self._world.tolist()] if len(worlds) > 1 else worlds[0]
        control = np.repeat(command[:, None], n_steps, 1)
        data = self._datas if len(self._datas) > 1 else self._datas[0]
        states, sensors = self._rollout.rollout(models, data, state, control)
        return np.asarray(states), np.asarray(sensors)

    def _reward(self, obs: np.ndarray) -> np.ndarray:
        """Returns the reward (n,) of what was just observed; 0 where the task has none."""
        if self._measured_reward:
            return self._measured_reward(self._sensor, self.command)
        reward = self.task_spec.reward
        return reward(obs) if reward else np.zeros(self.num_envs, np.float32)

    def close(self, **kwargs: Any) -> None:
        """Frees the threads."""
        self._rollout.close()

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns everything that `set_state` needs to go on exactly from here."""
        own = {"state": self._state, "sensor": self._sensor, "command": self.command}
        own |= {"world": self._world} if len(self._worlds) > 1 else {}
        return {**super().get_state(), **{name: array.copy() for name, array in own.items()}}

    def set_state(self, saved: dict[str, np.ndarray | str]) -> None:
        """Goes back to what `get_state` returned."""
        super().set_state(saved)
        self._state = np.array(saved["state"])
        self._sensor = np.array(saved["sensor"])
        self.command = np.array(saved["command"])
        if len(self._worlds) > 1:
            self._world = np.array(saved["world"])


def allowed_threads() -> int:
    """Returns OMP_NUM_THREADS where it is a number above 0, else the number of processors.

    Of a list it counts the first number, as OpenMP does. Two processes that share the processors
    are faster with one thread each: a simulation would wait in every control step for a thread that
    has no processor.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdecimal() and int(given) > 0 else os.cpu_count() or 1


def _obs_space(spec: TaskSpec) -> Box:
    """Returns the limits of the obs fields, a little wider where they are finite."""
    low, high = (limit.astype(np.float32) for limit in spec.obs_limits())
    width = np.where(np.isfinite(low) & np.isfinite(high), high - low, 0.0).astype(np.float32)
    return Box(low - MARGIN * width, high + MARGIN * width, dtype=np.float32)
