"""The environments that ours are compared with: as they come, and bare, each in one process."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.spaces import Box

from sim.core.registry import make_task
from sim.tasks.mujoco_task import FULL_STATE, MujocoTask

THEIRS = {  # our task: dm_control's domain and task, or gymnasium-robotics' id
    "walker-walk": ("walker", "walk"),
    "hopper-hop": ("hopper", "hop"),
    "cheetah-run": ("cheetah", "run"),
    "quadruped-walk": ("quadruped", "walk"),
    "jaco-reach-top-left": ("manipulation", "reach_duplo_features"),
    "ant-maze-umaze": ("gymnasium-robotics", "AntMaze_UMaze-v5"),
}
Env = gym.Env[np.ndarray, np.ndarray]
Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Bare(gym.Env):
    """The least that an environment of the model can do: `mj_step`, and the state as obs.

    It has no sensors and no reward. Episodes begin and last as ours do.

    Args:
        task: Our task.
        model: Its world, without sensors.
    """

    def __init__(self, task: MujocoTask, model: mujoco.MjModel) -> None:
        self._starts = task.starts[0]
        self._n_substeps = task.n_substeps
        self._episode_steps = task.episode_steps
        self._model = model
        self._data = mujoco.MjData(model)
        low, high = task.command_range()
        self._scale = (high - low) / 2
        self._offset = (high + low) / 2
        self._n_steps = 0
        self.action_space = Box(-1.0, 1.0, (model.nu,), np.float32)
        self.observation_space = Box(-np.inf, np.inf, (model.nq + model.nv,), np.float32)

    def _obs(self) -> np.ndarray:
        return np.concatenate([self._data.qpos, self._data.qvel]).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = self._starts[self.np_random.integers(len(self._starts))]
        mujoco.mj_resetData(self._model, self._data)
        mujoco.mj_setState(self._model, self._data, chosen, FULL_STATE)
        self._n_steps = 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> Step:
        self._data.ctrl[:] = self._offset + self._scale * action
        mujoco.mj_step(self._model, self._data, self._n_substeps)
        self._n_steps += 1
        return self._obs(), 0.0, False, self._n_steps >= self._episode_steps, {}


class Suite(gym.Env):
    """dm_control's environment as it comes, its obs as one vector.

    Args:
        domain: The suite's domain, or `manipulation`.
        task: Its task.
    """

    def __init__(self, domain: str, task: str) -> None:
        with warnings.catch_warnings():  # it looks for a screen, which nothing here needs
            warnings.simplefilter("ignore")
            from dm_control import manipulation, suite
        load = manipulation.load if domain == "manipulation" else partial(suite.load, domain)
        self._env = load(task)
        spec = self._env.action_spec()
        n_obs = len(self._flat(self._env.reset()))
        self.action_space = Box(spec.minimum, spec.maximum, dtype=np.float64)
        self.observation_space = Box(-np.inf, np.inf, (n_obs,), np.float32)

    @staticmethod
    def _flat(time_step: Any) -> np.ndarray:
        parts = [np.ravel(part) for part in time_step.observation.values()]
        return np.concatenate(parts).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._flat(self._env.reset()), {}

    def step(self, action: np.ndarray) -> Step:
        after = self._env.step(action)
        return self._flat(after), float(after.reward or 0.0), False, after.last(), {}


def bare_model(task: MujocoTask) -> mujoco.MjModel:
    """Returns the task's world with its sensors switched off."""
    model = copy.copy(task.model)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
    return model


def makers(task: str) -> dict[str, Callable[[], Env]]:
    """Returns what makes one environment, `theirs` and `bare`."""
    ours = make_task(task)
    assert isinstance(ours, MujocoTask)
    made = {"bare": partial(Bare, ours, bare_model(ours))}
    domain, name = THEIRS[task]
    if domain == "gymnasium-robotics":
        return {"theirs": partial(_robotics, name), **made}
    return {"theirs": partial(Suite, domain, name), **made}


def _robotics(gym_id: str) -> Env:
    """Returns gymnasium-robotics' environment, flattened."""
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    return gym.wrappers.FlattenObservation(gym.make(gym_id, disable_env_checker=True))
