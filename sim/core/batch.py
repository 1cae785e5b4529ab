"""Many copies of one MuJoCo model as a gymnasium VectorEnv, stepped on all cores by mujoco.rollout."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from mujoco import rollout

from sim.core.spec import TaskSpec
from sim.core.vec import SameStepVectorEnv

SMALL_BATCH = 8  # fewer simulations than this are not worth waking threads for


class MujocoBatch(SameStepVectorEnv):
    """`n_envs` simulations of a position-controlled model whose action map is `increment`; see `sim.core.vec`.

    `infos["success"]` (n,) is the task's success at this step.

    Args:
        model: compiled world.
        spec: the task.
        n_envs: number of simulations.
        seed: of the start poses.
        pool: start states (m, state) and their sensor readings (m, n_sensordata); commands start at the pose, which
            the first sensors must measure.
        observe: (sensor (n, n_sensordata), command (n, act_dim)) -> obs (n, obs_dim).
        n_substeps: physics steps a control step.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        spec: TaskSpec,
        n_envs: int,
        seed: int,
        *,
        pool: tuple[np.ndarray, np.ndarray],
        observe: Callable[[np.ndarray, np.ndarray], np.ndarray],
        n_substeps: int,
    ) -> None:
        low, high = (x.astype(np.float32) for x in spec.obs_limits())
        margin = 0.25 * (
            high - low
        )  # soft joint limits and fast falls go a little beyond the nominal range
        obs_space = spaces.Box(low - margin, high + margin, dtype=np.float32)
        super().__init__(n_envs, obs_space, spec.act_dim, spec.episode_steps, seed)
        self.model, self.task_spec = model, spec
        self._read, self._n_substeps, self._pool = observe, n_substeps, pool
        n_threads = min(os.cpu_count() or 1, n_envs)
        self._datas = [mujoco.MjData(model) for _ in range(n_threads)]
        self._rollout = rollout.Rollout(nthread=n_threads if n_envs >= SMALL_BATCH else 0)
        self._state = np.zeros((n_envs, pool[0].shape[1]))
        self._sensor = np.zeros((n_envs, pool[1].shape[1]))
        self._command = np.zeros((n_envs, model.nu))

    def _start(self, rows: np.ndarray) -> None:
        """Puts the simulations `rows` (k,) at poses drawn from the pool."""
        chosen = self.rng.integers(len(self._pool[0]), size=len(rows))
        self._state[rows], self._sensor[rows] = self._pool[0][chosen], self._pool[1][chosen]
        self._command[rows] = self._sensor[rows][:, : self.model.nu]

    def _observe(self) -> np.ndarray:
        return self._read(self._sensor, self._command)

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        amap = self.task_spec.action_map
        self._command = np.clip(
            self._command + action * np.asarray(amap.scale), amap.low, amap.high
        )
        control = np.repeat(self._command[:, None], self._n_substeps, 1)
        data = self._datas if self.num_envs >= SMALL_BATCH else self._datas[0]
        state, sensor = map(
            np.asarray, self._rollout.rollout(self.model, data, self._state, control)
        )
        self._state, self._sensor = state[:, -1].copy(), sensor[:, -1].copy()
        obs, nothing = self._observe(), np.zeros(self.num_envs, np.float32)
        reward = self.task_spec.reward(obs) if self.task_spec.reward else nothing
        success = self.task_spec.success(obs) if self.task_spec.success else nothing.astype(bool)
        return reward, np.zeros(self.num_envs, bool), {"success": success}

    def close(self, **kwargs: Any) -> None:
        """Frees the threads."""
        self._rollout.close()

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns everything that `set_state` needs to go on exactly from here."""
        own = {"state": self._state, "sensor": self._sensor, "command": self._command}
        return {**super().get_state(), **{k: v.copy() for k, v in own.items()}}

    def set_state(self, saved: dict[str, np.ndarray | str]) -> None:
        """Goes back to what `get_state` returned."""
        super().set_state(saved)
        self._state, self._sensor, self._command = (
            np.array(saved[k]) for k in ("state", "sensor", "command")
        )
