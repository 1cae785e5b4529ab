"""What every vector environment of ours shares: spaces, episode bookkeeping and same-step autoreset.

The contract, for `n` simulations, `obs_dim` and `act_dim` numbers each:

- `reset(seed=)` -> obs (n, obs_dim) float32, infos;
- `step(action (n, act_dim))` -> obs, reward (n,) float64, terminated (n,) bool, truncated (n,) bool, infos;
- actions lie in [-1, 1]; what lies outside is clipped;
- `gymnasium.vector.AutoresetMode.SAME_STEP`: where an episode ended, `obs` is already the next episode's
  first observation, and `infos["final_obs"]` (n, obs_dim) float32 is the last one of the old episode. The
  array is dense and always there: where no episode ended it equals `obs`, so `infos["final_obs"]` is, in
  every row, the observation that this step's action led to (what a replay buffer calls the next obs).
  `infos["_final_obs"]` (n,) bool marks the rows where an episode ended.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


def set_spaces(env: VectorEnv, n_envs: int, obs_space: Box, act_space: Box) -> None:
    """Gives `env` its number of simulations, its single and batched spaces and the autoreset mode.

    Raises:
        ValueError: `n_envs` is not a positive integer.
    """
    if n_envs != int(n_envs) or n_envs < 1:
        raise ValueError(f"n_envs must be a positive integer, got {n_envs!r}")
    env.num_envs = int(n_envs)
    env.single_observation_space, env.single_action_space = obs_space, act_space
    env.observation_space = batch_space(obs_space, env.num_envs)
    env.action_space = batch_space(act_space, env.num_envs)
    env.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}


def unit_box(act_dim: int) -> Box:
    """Returns the action space of all our environments, [-1, 1]^act_dim, float32."""
    return Box(-1.0, 1.0, (act_dim,), np.float32)


def check_action(env: VectorEnv, action: np.ndarray) -> np.ndarray:
    """Returns `action` (n, act_dim) as float64, clipped to [-1, 1].

    Raises:
        ValueError: another shape, or a value that is not finite.
    """
    action = np.asarray(action, np.float64)
    expected = (env.num_envs, *env.single_action_space.shape)  # type: ignore[misc]
    if action.shape != expected:
        raise ValueError(f"action has shape {action.shape}, expected {expected} (n_envs, act_dim)")
    if not np.isfinite(action).all():
        rows = np.flatnonzero(~np.isfinite(action).all(axis=1))
        raise ValueError(
            f"action is not finite in rows {rows[:8].tolist()} of {len(action)}; check the policy's output"
        )
    return np.clip(action, -1.0, 1.0)


class SameStepVectorEnv(VectorEnv):
    """A vector environment whose simulations are stepped as one batch.

    A subclass writes `_start(rows)`, `_observe()` and `_advance(action)`; this class does the rest. All
    randomness comes from `self.rng`, one generator for the whole batch: the same seed and the same
    `n_envs` give the same numbers, another `n_envs` gives others.

    Attributes:
        episode_length: env_steps after which an episode is truncated, or None for never.
        episode_step: (n,) int64, env_steps done in the running episodes.
        rng: the only source of randomness; `reset(seed=)` restarts it.
    """

    def __init__(
        self, n_envs: int, obs_space: Box, act_dim: int, episode_length: int | None, seed: int = 0
    ):
        """Sets up spaces and counters; the first `reset()` without a seed uses `seed`."""
        set_spaces(self, n_envs, obs_space, unit_box(act_dim))
        self.episode_length = episode_length
        self.episode_step = np.zeros(n_envs, np.int64)
        self.rng = np.random.default_rng(seed)
        self._started = False

    def _start(self, rows: np.ndarray) -> None:
        """Starts a new episode in `rows` (k,) int."""
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        """Returns the observations (n, obs_dim) of all simulations."""
        raise NotImplementedError

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Applies `action` (n, act_dim) in [-1, 1]; returns reward (n,), terminated (n,), infos."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts a new episode everywhere; returns obs (n, obs_dim) float32 and {}.

        Args:
            seed: restarts the random stream; None goes on with it.
            options: none are known.

        Raises:
            ValueError: any option was given.
        """
        if options:
            raise ValueError(f"{type(self).__name__}.reset knows no options, got {sorted(options)}")
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self._begin(np.arange(self.num_envs))
        self._started = True
        return np.array(self._observe(), np.float32), {}

    def step(self, actions: np.ndarray):
        """Advances all simulations by one env_step; see the module's text for what comes back.

        Raises:
            RuntimeError: `reset` was not called before.
            ValueError: `actions` have another shape than (n, act_dim) or are not finite.
        """
        if not self._started:
            raise RuntimeError(
                f"{type(self).__name__}.step was called before reset; call reset() first"
            )
        reward, terminated, infos = self._advance(check_action(self, actions))
        self.episode_step += 1
        truncated = np.zeros(self.num_envs, bool)
        if self.episode_length is not None:
            truncated = (self.episode_step >= self.episode_length) & ~terminated
        obs = final_obs = np.array(self._observe(), np.float32)
        ended = terminated | truncated
        if ended.any():
            self._begin(np.flatnonzero(ended))
            obs = np.array(self._observe(), np.float32)
        infos |= {"final_obs": final_obs.copy(), "_final_obs": ended}
        return obs, np.asarray(reward, np.float64), terminated, truncated, infos

    def _begin(self, rows: np.ndarray) -> None:
        """Starts new episodes in `rows` and sets their counters to zero."""
        self.episode_step[rows] = 0
        self._start(rows)

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns everything that `set_state` needs to go on exactly from here: arrays and one JSON string.

        A subclass adds its own arrays to these.
        """
        return {
            "episode_step": self.episode_step.copy(),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def set_state(self, saved: dict[str, np.ndarray | str]) -> None:
        """Goes back to what `get_state` returned.

        Raises:
            ValueError: the state is one of another number of simulations.
        """
        episode_step = np.array(saved["episode_step"], np.int64)
        if episode_step.shape != (self.num_envs,):
            raise ValueError(
                f"state has {episode_step.size} simulations, this environment {self.num_envs}"
            )
        self.episode_step = episode_step
        self.rng.bit_generator.state = json.loads(str(saved["rng"]))
        self._started = True
