"""Plays several control steps for each decision: fewer decisions, smoother commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import VectorWrapper

from sim.core.vec import Step, TaskVectorEnv


class Hold(VectorWrapper):
    """Plays `n_action_steps` control steps for each decision; an env_step stays one control step.

    A decision ends where its episode ends. The others go on, so that each decision has its
    `n_action_steps` control steps. An episode that begins during a decision plays what is left of
    it, and that part is counted nowhere.

    Rewards are averaged, so that values do not depend on the number. The infos:

    - `success` (n,) bool: any of the decision's control steps succeeded, for a task whose success
      counts at any time; else whether the last did.
    - `final_obs` (n, obs_dim): the observation that the decision led to, before any reset.
    - `path` (n_played, n, obs_dim): the observation after each control step, before any reset.
      `n_played` is `n_action_steps`, or less where all episodes have ended.
    - `n_control_steps` (n,): the control steps of each decision.

    Args:
        env: The environment.
        n_action_steps: Control steps for each decision.

    Raises:
        ValueError: `n_action_steps` does not divide the episode's length, so the last decision of
            every episode would be cut.
    """

    env: TaskVectorEnv

    def __init__(self, env: TaskVectorEnv, n_action_steps: int) -> None:
        super().__init__(env)
        self.task_spec = env.task_spec
        if n_action_steps < 1 or self.task_spec.episode_steps % n_action_steps:
            raise ValueError(
                f"n_action_steps={n_action_steps} does not divide the episode's "
                f"{self.task_spec.episode_steps} control steps of {self.task_spec.name!r}; "
                "choose a divisor"
            )
        self.n_action_steps = n_action_steps
        self._any_time = self.task_spec.success_when == "any"

    def step(self, actions: np.ndarray) -> Step:
        """Holds actions (n, act_dim) in [-1, 1]; the class says what comes back."""
        return self._decision(lambda _: self.env.step(actions))

    def step_commands(self, chunk: np.ndarray) -> Step:
        """Plays a chunk of commands (n, horizon, act_dim), one each control step.

        Commands after the first `n_action_steps` are left out.

        Raises:
            ValueError: The chunk is shorter than `n_action_steps`, has another shape, or is not
                finite.
        """
        if chunk.ndim != 3 or chunk.shape[1] < self.n_action_steps:
            raise ValueError(
                f"chunk has shape {chunk.shape}, expected (n_envs, horizon, act_dim) "
                f"with a horizon of at least {self.n_action_steps}"
            )
        return self._decision(lambda k: self.env.step_commands(chunk[:, k]))

    def _decision(self, control_step: Callable[[int], Step]) -> Step:
        """Returns the outcome of one decision: `control_step(k)` for k = 0, 1, ..."""
        obs, reward, terminated, truncated, infos = control_step(0)
        total = np.asarray(reward, np.float32)
        success = self._success(infos)
        final_obs = infos["final_obs"]
        path = [final_obs]
        n_control_steps = np.ones(self.num_envs, np.float32)
        running = ~(terminated | truncated)
        while len(path) < self.n_action_steps and running.any():
            obs, reward, ended, cut, infos = control_step(len(path))
            now = self._success(infos)
            path.append(infos["final_obs"])
            total = total + np.where(running, reward, 0.0).astype(np.float32)
            success = np.where(running, success | now if self._any_time else now, success)
            final_obs = np.where(running[:, None], infos["final_obs"], final_obs)
            n_control_steps += running
            terminated = terminated | (running & ended)
            truncated = truncated | (running & cut)
            running = ~(terminated | truncated)
        infos = {
            "success": success,
            "final_obs": final_obs,
            "_final_obs": ~running,
            "path": np.stack(path),
            "n_control_steps": n_control_steps,
        }
        return obs, total / n_control_steps, terminated, truncated, infos

    def _success(self, infos: dict[str, Any]) -> np.ndarray:
        """Returns the success (n,) bool of a control step; False where the task knows none."""
        return np.asarray(infos.get("success", np.zeros(self.num_envs, bool)))
