"""Any Gymnasium environment as a vector environment of ours: the tasks `gym:<id>`.

What is changed, for each environment:

- Observations become one float32 vector, in the order and form of `sim.tasks.spaces`: dictionaries
  and tuples are flattened, categories are one-hot.
- Actions are [-1, 1]^act_dim, spread over the environment's own low and high. Integers are rounded.
  Categories (Discrete, MultiDiscrete, MultiBinary) cannot be driven.
- Of its info only success is kept (`is_success` or `success`): `infos["success"]` (n,) bool, of the
  state that this step led to. It is absent where the environment reports none.
- Autoreset and `final_obs` are those of `sim.core.vec`. `reset(seed=)` gives each environment its
  own seed, spawned from the one given, or the seeds of a list.
- An episode is truncated after `max_episode_steps` of the registration, or after EPISODE_STEPS
  where it names none. The environment may end it sooner.
"""

from __future__ import annotations

import difflib
import inspect
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from policy_server.contract.doors.registries import import_here
from policy_server.contract.field import Field
from sim.core.action_map import ActionMap
from sim.core.registry import GYM, TASKS
from sim.core.spec import Part, TaskSpec, tile
from sim.core.vec import Seed, Step, TaskVectorEnv, copy_seeds
from sim.tasks import spaces

SUCCESS_KEYS = ("is_success", "success")
VECTORIZATIONS = ("sync", "async")
EPISODE_STEPS = 1000  # where the environment names no limit
MAX_COPIES = 32  # each is a world of its own: a kitchen has 55 MiB


@TASKS.register(GYM)
class GymTask:
    """A Gymnasium environment as a task.

    Args:
        gym_id: Id such as `Pendulum-v1` or, from gymnasium-robotics, `FetchReach-v4`; as
            `module:id` the module that registers it is imported first.
        vectorization: `sync` steps the copies one after another in this process: exact, no
            start-up, best for environments that step in less than about 200 us. `async` gives each
            a process of its own (spawned, so a script needs `if __name__ == "__main__"`): for slow
            environments and many cores.
        **kwargs: Passed to `gymnasium.make`, and so to the environment's constructor.

    Raises:
        ValueError: The id is unknown, the environment cannot be made, its actions are no bounded
            Box, or its observations have no fixed length.
    """

    def __init__(self, gym_id: str, vectorization: str = "sync", **kwargs: Any) -> None:
        if vectorization not in VECTORIZATIONS:
            raise ValueError(
                f"unknown vectorization {vectorization!r}; there are {', '.join(VECTORIZATIONS)}"
            )
        _registered(gym_id)
        self._gym_id = gym_id
        self._make = partial(make_one, gym_id, **kwargs)
        self._vectorization = vectorization

    @cached_property
    def spec(self) -> TaskSpec:
        """The environment's fields, action map, period and episode length."""
        probe = self._make()
        try:
            return replace(probe.task_spec(), name=f"{GYM}:{self._gym_id}")
        finally:
            probe.close()

    def make_vec(self, n_envs: int, seed: int) -> GymVecEnv:
        """Returns `n_envs` copies as one vector environment."""
        if n_envs < 1:
            raise ValueError(f"n_envs must be a positive integer, got {n_envs!r}")
        copies = [self._make] * n_envs
        if self._vectorization == "sync":
            envs = SyncVectorEnv(copies, autoreset_mode=AutoresetMode.SAME_STEP)
        else:
            envs = AsyncVectorEnv(copies, autoreset_mode=AutoresetMode.SAME_STEP, context="spawn")
        return GymVecEnv(envs, self.spec, seed)


def make_one(gym_id: str, **kwargs: Any) -> FlatEnv:
    """Returns one flattened environment. The `kwargs` are passed to `gymnasium.make`.

    Raises:
        ValueError: The id is unknown, the environment cannot be made, its actions are no bounded
            Box, or its observations have no fixed length.
    """
    own_id = _registered(gym_id)
    try:
        env = gym.make(own_id, disable_env_checker=True, **kwargs)
    except Exception as error:  # a foreign constructor may raise anything
        hint = f" (arguments: {_arguments(own_id)})" if isinstance(error, TypeError) else ""
        raise ValueError(
            f"Gymnasium could not make {gym_id!r}: {type(error).__name__}: {error}{hint}"
        ) from error
    _remove_maze_file(env)
    return FlatEnv(env)


def _remove_maze_file(env: gym.Env) -> None:
    """Removes the world that gymnasium-robotics' mazes write, read once, and leave in /tmp."""
    written = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if written and Path(written).match(f"{tempfile.gettempdir()}/ant_maze*.xml"):
        Path(written).unlink(missing_ok=True)


def _arguments(gym_id: str) -> str:
    """Returns the names of the arguments that an environment's constructor takes."""
    entry = gym.registry[gym_id].entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    names = inspect.signature(creator).parameters if callable(creator) else {}
    return ", ".join(names) or "none"


def _registered(gym_id: str) -> str:
    """Returns the id without its module, once Gymnasium knows it.

    Imports the module of `module:id`, or else registers gymnasium-robotics' environments.

    Raises:
        ValueError: There is no such module, or nothing registers the id.
    """
    module, _, own_id = gym_id.rpartition(":")
    hint = ""
    if module:
        try:
            import_here(module)
        except ImportError as error:
            raise ValueError(f"gym:{gym_id}: cannot import {module!r}: {error}") from error
        hint = f"; importing {module!r} did not register it"
    elif own_id not in gym.registry:
        try:
            import gymnasium_robotics

            gym.register_envs(gymnasium_robotics)
        except ImportError:
            hint = "; gymnasium-robotics is not installed (pip install 'edp-robot[sim]')"
    if own_id in gym.registry:
        return own_id
    near = difflib.get_close_matches(own_id, list(gym.registry), n=5, cutoff=0.5)
    raise ValueError(
        f"unknown Gymnasium environment {own_id!r}; near it are {', '.join(near) or 'none'}{hint}"
    )


class FlatEnv(gym.Wrapper):
    """One Gymnasium environment with vectors as observation (float32) and action (its own units).

    Args:
        env: The environment.

    Raises:
        ValueError: The action space is no bounded Box (or Dict or Tuple of them), or the
            observations have no fixed length.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        registered = env.spec.max_episode_steps if env.spec else None
        self._episode_steps = registered or EPISODE_STEPS
        self._n_steps = 0
        self._last = np.zeros(0, np.float32)
        self._parts = spaces.obs_leaves(env.observation_space)
        self._act_parts = spaces.action_leaves(env.action_space)
        low, high = self._limits(self._parts)
        self.observation_space = Box(
            low.astype(np.float32), high.astype(np.float32), dtype=np.float32
        )
        self.action_space = Box(*self._limits(self._act_parts), dtype=np.float64)

    @staticmethod
    def _limits(parts: Sequence[tuple[Any, Space]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the limits (n,) float64 of parts that follow each other."""
        low, high = zip(*(spaces.limits(leaf) for _, leaf in parts), strict=True)
        return np.concatenate(low), np.concatenate(high)

    def task_spec(self) -> TaskSpec:
        """Returns the contract: a field for each part of the observation and of the action."""
        obs = self._fields("observation", self._parts)
        action = self._fields("action", self._act_parts)
        low, high = self._limits(self._act_parts)
        env_spec = self.env.spec
        return TaskSpec(
            name=f"{GYM}:{env_spec.id if env_spec else self.env}",
            obs=obs,
            action=action,
            action_map=ActionMap.spread(low, high),
            control_period_s=self._period_s(),
            episode_steps=self._episode_steps,
            domain=GYM,
            max_copies=MAX_COPIES,
        )

    @staticmethod
    def _fields(name: str, parts: Sequence[tuple[Any, Space]]) -> tuple[Field, ...]:
        """Returns one field for each part, called `name` where it is the only one."""
        return tile(
            *(Part(spaces.part_name(path, name), "", *spaces.limits(leaf)) for path, leaf in parts)
        )

    def _period_s(self) -> float:
        """Returns the time between two actions [s].

        It is the environment's own, else the time between its frames, else 1.
        """
        period_s = getattr(self.unwrapped, "dt", None)
        fps = self.metadata.get("render_fps")
        return float(period_s) if period_s else 1.0 / fps if fps else 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the first observation (obs_dim,) and {}."""
        obs, _ = self.env.reset(seed=seed, options=options)
        self._n_steps = 0
        self._last = spaces.as_vector(self._parts, obs)
        return self._last, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies `action` (act_dim,) in the environment's units. NaN leaves it as it stands.

        The info holds `success`, a float, where the environment reports it.
        """
        if np.isnan(action).any():
            return self._last, 0.0, False, False, {}
        own = spaces.as_value(self.env.action_space, self._act_parts, action)
        obs, reward, terminated, truncated, info = self.env.step(own)
        self._n_steps += 1
        truncated = truncated or self._n_steps >= self._episode_steps
        self._last = spaces.as_vector(self._parts, obs)
        said = _success(info)
        info = {} if said is None else {"success": said}
        return self._last, float(reward), bool(terminated), bool(truncated), info


def _success(info: dict[str, Any]) -> float | None:
    """Returns the success that an info reports, NaN for NaN; None where it reports none."""
    found = (info[key] for key in SUCCESS_KEYS if info.get(key) is not None)
    return next((float(np.min(np.asarray(value, float))) for value in found), None)


class GymVecEnv(TaskVectorEnv):
    """A Gymnasium vector environment of `FlatEnv`s, with the contract of `sim.core.vec`.

    Args:
        envs: The environments, with same-step autoreset.
        spec: Their contract.
        seed: Seeds the first `reset()` that gives no seed itself.
    """

    def __init__(self, envs: VectorEnv, spec: TaskSpec, seed: int = 0) -> None:
        obs_space = envs.single_observation_space
        super().__init__(spec, envs.num_envs, obs_space)  # type: ignore[arg-type]
        self._envs = envs
        self._first_seed: int | None = seed

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new episode everywhere; returns obs (n, obs_dim) float32 and {}.

        Args:
            seed: Restarts the random streams; a list has one for each. None goes on with them.
            options: Passed to each environment.
        """
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        seeds = seed
        if seed is not None and not isinstance(seed, list):
            seeds = copy_seeds(seed, self.num_envs)
        obs, _ = self._envs.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        return self._first(obs), {}

    def _play(self, command: np.ndarray) -> Step:
        running = self.running[:, None]
        self.command = np.where(running, command, self.command)
        sent = np.where(running, command, np.nan)  # FlatEnv leaves these as they stand
        obs, reward, terminated, truncated, raw = self._envs.step(sent)
        obs = np.array(obs, np.float32)
        ended = terminated | truncated
        final_obs = obs.copy()
        success = raw.get("success")
        if ended.any():
            final_obs[ended] = np.stack(raw["final_obs"][ended])
            if "success" in raw["final_info"]:
                others = 0.0 if success is None else success
                success = np.where(ended, raw["final_info"]["success"], others)
        infos = {"final_obs": final_obs, "_final_obs": ended}
        if success is not None:
            infos["success"] = success
        return obs, np.asarray(reward, np.float64), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments and ends their processes."""
        self._envs.close(**kwargs)
