"""Holds a policy's action for several control steps: fewer decisions, smoother commands, longer
reach.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium.vector import VectorWrapper

from sim.core.vec import Step, TaskVectorEnv


class Hold(VectorWrapper):
    """Plays `n_action_steps` control steps for each decision; an env_step stays one control step.

    Rewards are averaged, so that values do not depend on the number. `infos["success"]` is true
    when any of the control steps succeeded for a task that wants it at any time, else that of the
    last. `infos["path"]` (n_action_steps, n, obs_dim) holds the observation after each control
    step, before any reset.

    Args:
        env: The environment.
        n_action_steps: Control steps for each decision.

    Raises:
        ValueError: `n_action_steps` does not divide the episode's length: a reset would fall inside
            a hold.
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

    def step(self, actions: np.ndarray) -> Step:
        """Holds actions (n, act_dim) in [-1, 1]; the class says what rewards and infos are."""
        return self._decision(lambda _: self.env.step(actions))

    def step_commands(self, chunk: np.ndarray) -> Step:
        """Plays the first `n_action_steps` commands of a chunk (n, horizon, act_dim), one each
        control step.

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
        total = np.zeros(self.num_envs, np.float32)
        success = np.zeros(self.num_envs, bool)
        path = []
        while True:
            obs, reward, terminated, truncated, infos = control_step(len(path))
            total += np.asarray(reward, np.float32)
            now = np.asarray(infos.get("success", np.zeros(self.num_envs, bool)))
            success = success | now if self.task_spec.success_when == "any" else now
            path.append(infos["final_obs"])
            if len(path) == self.n_action_steps or terminated.any():
                infos = {**infos, "success": success, "path": np.stack(path)}
                return obs, total / len(path), terminated, truncated, infos
