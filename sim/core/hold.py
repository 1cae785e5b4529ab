"""A policy's action held for several control steps: fewer decisions, smoother commands, longer reach."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper


class Hold(VectorWrapper):
    """Repeats each action for `n_action_steps` control steps; an env_step stays one control step.

    Rewards are averaged, so that values do not depend on the number. `infos["success"]` is true when any of the
    control steps succeeded for a task that wants it at any time, else that of the last. `infos["path"]`
    (n_action_steps, n, obs_dim) holds the observation after each control step, before any reset.

    Raises:
        ValueError: `n_action_steps` does not divide the episode's length (a reset would fall inside a hold).
    """

    def __init__(self, env: VectorEnv, n_action_steps: int) -> None:
        super().__init__(env)
        self.task_spec = env.task_spec  # type: ignore[attr-defined]
        if n_action_steps < 1 or self.task_spec.episode_steps % n_action_steps:
            raise ValueError(
                f"n_action_steps={n_action_steps} does not divide the episode's {self.task_spec.episode_steps} control "
                f"steps of {self.task_spec.name!r}; choose a divisor"
            )
        self.n_action_steps = n_action_steps

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Returns one decision's outcome; see the class for rewards and infos."""
        total, success, path = (
            np.zeros(self.num_envs, np.float32),
            np.zeros(self.num_envs, bool),
            [],
        )
        while True:
            obs, reward, terminated, truncated, infos = self.env.step(actions)
            total += np.asarray(reward, np.float32)
            now = np.asarray(infos.get("success", np.zeros(self.num_envs, bool)))
            success = success | now if self.task_spec.success_when == "any" else now
            path.append(infos["final_obs"])
            if len(path) == self.n_action_steps or terminated.any():
                return (
                    obs,
                    total / len(path),
                    terminated,
                    truncated,
                    {**infos, "success": success, "path": np.stack(path)},
                )
