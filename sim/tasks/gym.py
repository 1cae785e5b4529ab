"""Any Gymnasium environment as a vector environment of ours: the tasks `gym:<id>`.

What is changed, per environment:

- Observations become one float32 vector. The entries of a goal dictionary follow each other in the order
  observation, desired_goal, achieved_goal, then what else there is, alphabetically; a dictionary inside a
  dictionary likewise; every array is raveled in C order.
- Actions are [-1, 1]^act_dim, mapped affinely to the environment's own low and high.
- Of its info only success is kept (`is_success` or `success`): `infos["success"]` (n,) bool, of the state
  that this step led to. It is absent if the environment reports none.
- Autoreset and `final_obs` are those of `sim.core.vec`; `reset(seed=)` gives each environment its own seed,
  spawned from the one given.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sim.core.spec import ActionMap, TaskSpec, tile
from sim.core.vec import check_action, set_spaces, unit_box

TASK_PREFIX = "gym:"
GOAL_ORDER = ("observation", "desired_goal", "achieved_goal")
SUCCESS_KEYS = ("is_success", "success")


def make_vec(
    gym_id: str, n_envs: int, seed: int = 0, vectorization: str = "sync", **kwargs: Any
) -> GymVecEnv:
    """Returns `n_envs` copies of the Gymnasium environment `gym_id` (with or without the prefix `gym:`).

    Args:
        gym_id: such as `Pendulum-v1` or, from gymnasium-robotics, `FetchReach-v4`.
        n_envs: number of copies.
        seed: of the first reset.
        vectorization: `sync` steps them one after another in this process: exact, no start-up, best for
            environments that step in less than about 200 us. `async` gives each a process of its own
            (spawned, so a script needs `if __name__ == "__main__"`): for slow environments and many cores.
        kwargs: handed to `gymnasium.make`.

    Raises:
        ValueError: unknown id, an environment that cannot be made, or spaces that are not continuous.
    """
    gym_id = _registered(gym_id.removeprefix(TASK_PREFIX))
    modes = {"sync": SyncVectorEnv, "async": partial(AsyncVectorEnv, context="spawn")}
    if vectorization not in modes:
        raise ValueError(f"unknown vectorization {vectorization!r}; there are {', '.join(modes)}")
    if n_envs < 1:
        raise ValueError(f"n_envs must be a positive integer, got {n_envs!r}")
    probe = make_one(gym_id, **kwargs)
    spec = probe.task_spec()
    probe.close()
    copies = [partial(make_one, gym_id, **kwargs) for _ in range(n_envs)]
    return GymVecEnv(
        modes[vectorization](copies, autoreset_mode=AutoresetMode.SAME_STEP), spec, seed
    )


def make_one(gym_id: str, **kwargs: Any) -> FlatEnv:
    """Returns one flattened environment; `gym_id` without prefix."""
    try:
        env = gym.make(_registered(gym_id), disable_env_checker=True, **kwargs)
    except Exception as error:  # whatever a foreign constructor raises
        raise ValueError(
            f"Gymnasium could not make {gym_id!r}: {type(error).__name__}: {error}"
        ) from error
    return FlatEnv(env)


def _registered(gym_id: str) -> str:
    """Returns `gym_id` if Gymnasium knows it, registering gymnasium-robotics' environments if need be."""
    if ":" in gym_id or gym_id in gym.registry:  # `module:id` lets Gymnasium import the module
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
        ValueError: a part of the space is not a Box.
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
    """One Gymnasium environment with a float32 observation vector and actions in [-1, 1]^act_dim."""

    def __init__(self, env: gym.Env):
        """Reads the spaces of `env`.

        Raises:
            ValueError: an action space that is no bounded Box, or an observation space other than Box or Dict.
        """
        super().__init__(env)
        act = env.action_space
        if not isinstance(act, Box) or not act.is_bounded():
            raise ValueError(
                f"action space of {env} is {act}; only a Box with finite low and high can be driven"
            )
        self._own_action = act
        self._low, self._high = act.low.ravel().astype(float), act.high.ravel().astype(float)
        self._parts = ordered(env.observation_space)
        low, high = (
            np.concatenate([getattr(box, k).ravel() for _, box in self._parts])
            for k in ("low", "high")
        )
        self.observation_space = Box(
            low.astype(np.float32), high.astype(np.float32), dtype=np.float32
        )
        self.action_space = unit_box(self._low.size)

    def task_spec(self) -> TaskSpec:
        """Returns the contract: one observation field for each box, one action field in the environment's units."""
        boxes = [("/".join(path) or "observation", box) for path, box in self._parts]
        low, high = tuple(self._low.tolist()), tuple(self._high.tolist())
        half, middle = (self._high - self._low) / 2, (self._high + self._low) / 2
        env_spec = self.env.spec
        return TaskSpec(
            name=TASK_PREFIX + (env_spec.id if env_spec else str(self.env)),
            obs=tile(*((name, "", box.low.ravel(), box.high.ravel()) for name, box in boxes)),
            action=tile(("action", "", low, high)),
            action_map=ActionMap(
                "absolute", tuple(half.tolist()), tuple(middle.tolist()), low, high
            ),
            control_period_s=self._period_s(),
            episode_steps=(env_spec.max_episode_steps if env_spec else None) or 1000,
        )

    def _period_s(self) -> float:
        """Returns the time between two actions [s]: the environment's own, or what its frame rate says, or 1."""
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

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Returns the first observation (obs_dim,) and {}."""
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._flat(obs), {}

    def step(self, action: np.ndarray):
        """Applies `action` (act_dim,) in [-1, 1]; the info holds `success` if the environment reports it."""
        share = (np.clip(np.asarray(action, float), -1.0, 1.0) + 1.0) / 2.0
        own = np.clip(self._low + share * (self._high - self._low), self._low, self._high)
        own = own.reshape(self._own_action.shape).astype(self._own_action.dtype)
        obs, reward, terminated, truncated, info = self.env.step(own)
        success = next((bool(info[key]) for key in SUCCESS_KEYS if key in info), None)
        info = {} if success is None else {"success": success}
        return self._flat(obs), float(reward), bool(terminated), bool(truncated), info


class GymVecEnv(VectorEnv):
    """A Gymnasium vector environment of `FlatEnv`s, speaking `sim.core.vec`'s contract.

    Attributes:
        task_spec: fields, action map, period and episode length.
        episode_length: env_steps at which Gymnasium truncates (1000 where it sets no limit).
    """

    def __init__(self, envs: VectorEnv, spec: TaskSpec, seed: int = 0):
        """Takes over `envs` (same-step autoreset); the first `reset()` without a seed uses `seed`."""
        self._envs, self.task_spec, self.episode_length = envs, spec, spec.episode_steps
        set_spaces(self, envs.num_envs, envs.single_observation_space, envs.single_action_space)  # type: ignore[arg-type]
        self._first_seed: int | None = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts a new episode everywhere; returns obs (n, obs_dim) float32 and {}."""
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        seeds = None
        if seed is not None:
            seeds = [
                int(word) for word in np.random.SeedSequence(seed).generate_state(self.num_envs)
            ]
        obs, _ = self._envs.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        return np.array(obs, np.float32), {}

    def step(self, actions: np.ndarray):
        """Advances all environments by one env_step; see `sim.core.vec` for what comes back.

        Raises:
            ValueError: `actions` have another shape than (n, act_dim) or are not finite.
        """
        action = check_action(self, actions).astype(np.float32)
        obs, reward, terminated, truncated, raw = self._envs.step(action)
        obs, ended = np.array(obs, np.float32), terminated | truncated
        final_obs, success = obs.copy(), raw.get("success")
        if ended.any():
            final_obs[ended] = np.stack(raw["final_obs"][ended])
            if "success" in raw["final_info"]:
                success = np.where(
                    ended, raw["final_info"]["success"], False if success is None else success
                )
        infos = {"final_obs": final_obs, "_final_obs": ended}
        if success is not None:
            infos["success"] = np.asarray(success, bool)
        return obs, np.asarray(reward, np.float64), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environments and ends their processes."""
        self._envs.close(**kwargs)
