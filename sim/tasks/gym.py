"""Any Gymnasium environment as a vector environment of ours: the tasks `gym:<id>`.

What is changed, for each environment:

- Observations become one float32 vector. The entries of a goal dictionary follow each other in the
  order observation, desired_goal, achieved_goal, then the others by name. A dictionary inside a
  dictionary is treated alike. Every array is raveled in C order.
- Actions are [-1, 1]^act_dim, spread over the environment's own low and high.
- Of its info only success is kept (`is_success` or `success`): `infos["success"]` (n,) bool, of the
  state that this step led to. It is absent where the environment reports none.
- Autoreset and `final_obs` are those of `sim.core.vec`. `reset(seed=)` gives each environment its
  own seed, spawned from the one given.
"""

from __future__ import annotations

import difflib
from functools import cached_property, partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sim.core.action_map import ActionMap
from sim.core.registry import GYM, TASKS
from sim.core.spec import Part, TaskSpec, tile
from sim.core.vec import Step, TaskVectorEnv

GOAL_ORDER = ("observation", "desired_goal", "achieved_goal")
SUCCESS_KEYS = ("is_success", "success")
VECTORIZATIONS = ("sync", "async")
EPISODE_STEPS = 1000  # where the environment names no limit


@TASKS.register(GYM)
class GymTask:
    """A Gymnasium environment as a task.

    Args:
        gym_id: Id such as `Pendulum-v1` or, from gymnasium-robotics, `FetchReach-v4`.
        vectorization: `sync` steps the copies one after another in this process: exact, no
            start-up, best for environments that step in less than about 200 us. `async` gives each
            a process of its own (spawned, so a script needs `if __name__ == "__main__"`): for slow
            environments and many cores.
        **kwargs: Passed to `gymnasium.make`.

    Raises:
        ValueError: The id is unknown, the environment cannot be made, or its spaces are not
            continuous.
    """

    def __init__(self, gym_id: str, vectorization: str = "sync", **kwargs: Any) -> None:
        if vectorization not in VECTORIZATIONS:
            raise ValueError(
                f"unknown vectorization {vectorization!r}; there are {', '.join(VECTORIZATIONS)}"
            )
        self._make = partial(make_one, _registered(gym_id), **kwargs)
        self._vectorization = vectorization

    @cached_property
    def spec(self) -> TaskSpec:
        """The environment's fields, action map, period and episode length."""
        probe = self._make()
        try:
            return probe.task_spec()
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
        ValueError: The id is unknown, the environment cannot be made, or its spaces are not
            continuous.
    """
    try:
        env = gym.make(_registered(gym_id), disable_env_checker=True, **kwargs)
    except Exception as error:  # a foreign constructor may raise anything
        raise ValueError(
            f"Gymnasium could not make {gym_id!r}: {type(error).__name__}: {error}"
        ) from error
    return FlatEnv(env)


def _registered(gym_id: str) -> str:
    """Returns `gym_id` if Gymnasium knows it. Registers gymnasium-robotics' environments first."""
    if ":" in gym_id or gym_id in gym.registry:  # `module:id` makes Gymnasium import the module
        return gym_id
    hint = ""
    try:
        import gymnasium_robotics

        gym.register_envs(gymnasium_robotics)
    except ImportError:
        hint = "; gymnasium-robotics is not installed (pip install 'edp-robot[sim]')"
    if gym_id in gym.registry:
        return gym_id
    near = difflib.get_close_matches(gym_id, list(gym.registry), n=5, cutoff=0.5)
    raise ValueError(
        f"unknown Gymnasium environment {gym_id!r}; near it are {', '.join(near) or 'none'}{hint}"
    )


def ordered(space: Space, name: str = "observation") -> list[tuple[tuple[str, ...], Box]]:
    """Returns the boxes of an observation space with their key paths, in the order of flattening.

    Raises:
        ValueError: A part of the space is not a Box.
    """
    if isinstance(space, Box):
        return [((), space)]
    if not isinstance(space, Dict):
        raise ValueError(f"{name} space is {space}; only Box, and Dict of them, can be flattened")
    keys = [key for key in GOAL_ORDER if key in space.spaces]
    keys += sorted(key for key in space.spaces if key not in GOAL_ORDER)
    return [
        ((key, *path), box) for key in keys for path, box in ordered(space[key], f"{name}/{key}")
    ]


class FlatEnv(gym.Wrapper):
    """One Gymnasium environment with vectors as observation (float32) and action (its own units).

    Args:
        env: The environment.

    Raises:
        ValueError: The action space is no bounded Box, or the observation space is neither Box nor
            Dict.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        act = env.action_space
        if not isinstance(act, Box) or not act.is_bounded():
            raise ValueError(
                f"action space of {env} is {act}; only a Box with finite low and high can be driven"
            )
        self._own_action = act
        self._parts = ordered(env.observation_space)
        low = np.concatenate([box.low.ravel() for _, box in self._parts])
        high = np.concatenate([box.high.ravel() for _, box in self._parts])
        self.observation_space = Box(
            low.astype(np.float32), high.astype(np.float32), dtype=np.float32
        )
        self.action_space = Box(
            act.low.ravel().astype(float), act.high.ravel().astype(float), dtype=np.float64
        )

    def task_spec(self) -> TaskSpec:
        """Returns the contract: one obs field for each box, and one action field."""
        boxes = [("/".join(path) or "observation", box) for path, box in self._parts]
        act = self.action_space
        env_spec = self.env.spec
        return TaskSpec(
            name=f"{GYM}:{env_spec.id if env_spec else self.env}",
            obs=tile(*(Part(name, "", box.low.ravel(), box.high.ravel()) for name, box in boxes)),
            action=tile(Part("action", "", act.low, act.high)),
            action_map=ActionMap.spread(act.low, act.high),
            control_period_s=self._period_s(),
            episode_steps=(env_spec.max_episode_steps if env_spec else None) or EPISODE_STEPS,
            domain=GYM,
        )

    def _period_s(self) -> float:
        """Returns the time between two actions [s].

        It is the environment's own, else the time between its frames, else 1.
        """
        period_s = getattr(self.unwrapped, "dt", None)
        fps = self.metadata.get("render_fps")
        return float(period_s) if period_s else 1.0 / fps if fps else 1.0

    def _flat(self, obs: Any) -> np.ndarray:
        """Returns `obs` as one float32 vector."""
        out = []
        for path, _ in self._parts:
            part = obs
            for key in path:
                part = part[key]
            out.append(np.ravel(part))
        return np.concatenate(out).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the first observation (obs_dim,) and {}."""
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._flat(obs), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Applies `action` (act_dim,) in the environment's units.

        The info holds `success` where the environment reports it.
        """
        own = np.clip(action, self.action_space.low, self.action_space.high)
        own = own.reshape(self._own_action.shape).astype(self._own_action.dtype)
        obs, reward, terminated, truncated, info = self.env.step(own)
        success = next((bool(info[key]) for key in SUCCESS_KEYS if key in info), None)
        info = {} if success is None else {"success": success}
        return self._flat(obs), float(reward), bool(terminated), bool(truncated), info


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
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new episode everywhere; returns obs (n, obs_dim) float32 and {}.

        Args:
            seed: Restarts the random streams. None goes on with them.
            options: Passed to each environment.
        """
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        seeds = None
        if seed is not None:
            words = np.random.SeedSequence(seed).generate_state(self.num_envs)
            seeds = [int(word) for word in words]
        obs, _ = self._envs.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        return np.array(obs, np.float32), {}

    def _play(self, command: np.ndarray) -> Step:
        self.command = command
        obs, reward, terminated, truncated, raw = self._envs.step(command)
        obs = np.array(obs, np.float32)
        ended = terminated | truncated
        final_obs = obs.copy()
        success = raw.get("success")
        if ended.any():
            final_obs[ended] = np.stack(raw["final_obs"][ended])
            if "success" in raw["final_info"]:
                running = False if success is None else success
                success = np.where(ended, raw["final_info"]["success"], running)
        infos = {"final_obs": final_obs, "_final_obs": ended}
        if success is not None:
            infos["success"] = np.asarray(success, bool)
        return obs, np.asarray(reward, np.float64), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments and ends their processes."""
        self._envs.close(**kwargs)
