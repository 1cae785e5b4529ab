"""What every vector environment of ours shares: spaces, commands, episodes and same-step autoreset.

The contract, for `n` simulations, `obs_dim` and `act_dim` numbers each:

- `reset(seed=)` -> obs (n, obs_dim) float32, infos;
- `step(action (n, act_dim))` -> obs, reward (n,) float64, terminated (n,) bool, truncated (n,)
  bool, infos;
- actions lie in [-1, 1]; what lies outside is clipped;
- `step_commands(commands (n, act_dim))` does the same with commands in physical units. They are
  limited as the robot's own limiter would: between low and high, no faster than `max_rate`;
- both take `running` (n,) bool. A copy that does not run stands at the start of its episode: its
  action is not played, its reward is 0, and nothing of it ends;
- `infos["success"]` (n,) bool is absent where the task reports no success;
- `infos["explored"]` (n, k) are numbers that exploration is measured by and no policy sees, after
  this step and before any reset. It is absent where the obs is all that there is;
- an observation, reward or success that is not finite is refused with `sim.core.finite.NotFinite`;
- `gymnasium.vector.AutoresetMode.SAME_STEP`: where an episode ended, `obs` is already the next
  episode's first observation, and `infos["final_obs"]` (n, obs_dim) float32 is the last one of the
  old episode. The array is dense and always there: where no episode ended it equals `obs`, so
  `infos["final_obs"]` is, in every row, the observation that this step's action led to (what a
  replay buffer calls the next obs). `infos["_final_obs"]` (n,) bool marks the rows where an episode
  ended.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sim.core.finite import require_finite
from sim.core.spec import TaskSpec

Seed = int | list[int] | None
Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


def copy_seeds(seed: int, n: int) -> list[int]:
    """Returns a seed for each of `n` copies. The first ones do not depend on `n`."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(n)]


class TaskVectorEnv(VectorEnv):
    """A vector environment of a task. The module's text says what `reset` and `step` return.

    Args:
        spec: The task's contract.
        n_envs: Number of simulations.
        obs_space: Space of one observation.

    Attributes:
        task_spec: The task's contract.
        command: (n_envs, act_dim) float64, the last commands.
        running: (n_envs,) bool, the copies that the step at hand advances.
        episode_step: (n_envs,) int64, env_steps done in the running episodes.
        n_steps: env_steps of one copy since the environment was made.

    Raises:
        ValueError: `n_envs` is not a positive integer.
    """

    def __init__(self, spec: TaskSpec, n_envs: int, obs_space: Box) -> None:
        if n_envs != int(n_envs) or n_envs < 1:
            raise ValueError(f"n_envs must be a positive integer, got {n_envs!r}")
        self.task_spec = spec
        self.num_envs = int(n_envs)
        self.single_observation_space = obs_space
        self.single_action_space = Box(-1.0, 1.0, (spec.act_dim,), np.float32)
        self.observation_space = batch_space(obs_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.command = np.zeros((self.num_envs, spec.act_dim))
        self.running = np.ones(self.num_envs, bool)
        self.episode_step = np.zeros(self.num_envs, np.int64)
        self.n_steps = 0

    def step(self, actions: np.ndarray, running: np.ndarray | None = None) -> Step:
        """Advances the simulations by one env_step with actions (n, act_dim) in [-1, 1].

        Args:
            actions: One for each copy.
            running: (n,) bool; the others stand at the start of their episode. None: all run.

        Raises:
            ValueError: `actions` have another shape or are not finite.
            NotFinite: The environment gave a number that is not finite.
        """
        action = np.minimum(np.maximum(self._checked(actions, "action"), -1.0), 1.0)
        command = self.task_spec.action_map.command(self.command, action)
        return self._step(self.task_spec.no_faster(self.command, command), running)

    def step_commands(self, commands: np.ndarray, running: np.ndarray | None = None) -> Step:
        """Advances the simulations by one env_step with commands (n, act_dim) in physical units.

        Args:
            commands: One for each copy.
            running: (n,) bool; the others stand at the start of their episode. None: all run.

        Raises:
            ValueError: `commands` have another shape or are not finite.
            NotFinite: The environment gave a number that is not finite.
        """
        wanted = self._checked(commands, "command")
        return self._step(self.task_spec.limited(self.command, wanted), running)

    def _step(self, command: np.ndarray, running: np.ndarray | None) -> Step:
        """Plays limited commands (n, act_dim) where copies run, and checks what comes back."""
        self.running = np.ones(self.num_envs, bool) if running is None else np.array(running, bool)
        self.episode_step += self.running
        self.n_steps += 1
        obs, reward, terminated, truncated, infos = self._play(command)
        self._require_finite(infos["final_obs"], "observation")
        self._require_finite(reward, "reward")
        if "success" in infos:
            self._require_finite(infos["success"], "success")
            infos["success"] = infos["success"].astype(bool)
        ended = terminated | truncated
        if ended.any():
            self.episode_step[ended] = 0
            self._require_finite(obs, "observation")
        return obs, reward, terminated, truncated, infos

    def _play(self, command: np.ndarray) -> Step:
        """Advances the `running` simulations by one env_step. The commands are limited."""
        raise NotImplementedError

    def _first(self, obs: np.ndarray) -> np.ndarray:
        """Returns the first observations (n, obs_dim) of a `reset`, as float32; checks them."""
        self.episode_step[:] = 0
        self._require_finite(obs, "observation")
        return np.array(obs, np.float32)

    def _require_finite(self, values: np.ndarray, what: str) -> None:
        """Raises NotFinite, with task, copy and step, unless `values` (n, ...) are finite."""
        require_finite(values, what, self._place, self.task_spec.obs)

    def _place(self, copy: int) -> str:
        """Returns in words where a copy stands."""
        step = int(self.episode_step[copy])
        at = f"control step {step} of its episode" if step else "the reset of its episode"
        return f"task {self.task_spec.name!r}, copy {copy}, {at} (step {self.n_steps} in all)"

    def _checked(self, values: np.ndarray, what: str) -> np.ndarray:
        """Returns `values` (n, act_dim) as float64. Raises ValueError for other shapes and NaN."""
        values = np.asarray(values, np.float64)
        expected = self.command.shape
        if values.shape != expected:
            raise ValueError(
                f"{what} has shape {values.shape}, expected {expected} (n_envs, act_dim)"
            )
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
            raise ValueError(
                f"{what} is not finite in rows {rows[:8].tolist()} of {len(values)}; "
                "check the policy's output"
            )
        return values


class SameStepVectorEnv(TaskVectorEnv):
    """A vector environment whose simulations are stepped as one batch.

    A subclass writes `_start(rows)`, `_observe()` and `_advance(command)`; this class does the
    rest. All randomness comes from `self.rng`, one generator for the whole batch: the same seed and
    the same `n_envs` give the same numbers, another `n_envs` gives others.

    Args:
        spec: The task's contract. Episodes are truncated after its `episode_steps`.
        n_envs: Number of simulations.
        seed: Seeds the first `reset()` that gives no seed itself.
        obs_space: Space of one observation. None: the limits of the obs fields.

    Attributes:
        rng: The only source of randomness; `reset(seed=)` restarts it.
    """

    def __init__(
        self, spec: TaskSpec, n_envs: int, seed: int = 0, obs_space: Box | None = None
    ) -> None:
        if obs_space is None:
            low, high = (limit.astype(np.float32) for limit in spec.obs_limits())
            obs_space = Box(low, high, dtype=np.float32)
        super().__init__(spec, n_envs, obs_space)
        self.rng = np.random.default_rng(seed)
        self._started = False

    def _start(self, rows: np.ndarray) -> None:
        """Starts a new episode in `rows` (k,) int."""
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        """Returns the observations (n, obs_dim) of all simulations."""
        raise NotImplementedError

    def _advance(self, command: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Plays `command` (n, act_dim) for one control step.

        Returns reward (n,), terminated (n,) bool and infos.
        """
        raise NotImplementedError

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new episode everywhere; returns obs (n, obs_dim) float32 and {}.

        Args:
            seed: Restarts the random stream. None goes on with it.
            options: No options are known.

        Raises:
            ValueError: An option was given.
            NotFinite: An observation is not finite.
        """
        if options:
            raise ValueError(f"{type(self).__name__}.reset knows no options, got {sorted(options)}")
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self._begin(np.arange(self.num_envs))
        self._started = True
        return self._first(self._observe()), {}

    def _play(self, command: np.ndarray) -> Step:
        """Advances the simulations. Raises RuntimeError before the first `reset`.

        The batch is stepped whole. A copy that does not run begins its episode once more.
        """
        if not self._started:
            raise RuntimeError(
                f"{type(self).__name__}.step was called before reset; call reset() first"
            )
        self.command = command
        running = self.running
        reward, terminated, infos = self._advance(command)
        terminated = terminated & running
        is_over = self.episode_step >= self.task_spec.episode_steps
        truncated = is_over & ~terminated & running
        obs = final_obs = np.array(self._observe(), np.float32)
        ended = terminated | truncated
        begins = ended | ~running
        if begins.any():
            self._begin(np.flatnonzero(begins))
            obs = np.array(self._observe(), np.float32)
            final_obs = np.where(running[:, None], final_obs, obs)
        infos |= {"final_obs": final_obs.copy(), "_final_obs": ended}
        if "success" in infos:
            infos["success"] = np.where(running, infos["success"], False)
        reward = np.where(running, np.asarray(reward, np.float64), 0.0)
        return obs, reward, terminated, truncated, infos

    def _begin(self, rows: np.ndarray) -> None:
        """Starts new episodes in `rows` and sets their counters to zero."""
        self.episode_step[rows] = 0
        self._start(rows)

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns everything that `set_state` needs to go on exactly from here.

        It consists of arrays and one JSON string. A subclass adds its own arrays.
        """
        return {
            "episode_step": self.episode_step.copy(),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def set_state(self, saved: dict[str, np.ndarray | str]) -> None:
        """Goes back to what `get_state` returned.

        Raises:
            ValueError: The state is one of another number of simulations.
        """
        episode_step = np.array(saved["episode_step"], np.int64)
        if episode_step.shape != (self.num_envs,):
            raise ValueError(
                f"state has {episode_step.size} simulations, this environment {self.num_envs}"
            )
        self.episode_step = episode_step
        self.rng.bit_generator.state = json.loads(str(saved["rng"]))
        self._started = True
