"""Plays several control steps for each decision: fewer decisions, smoother commands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium.vector import VectorWrapper

from sim.core.vec import Step, TaskVectorEnv

# Control step k = 0, 1, ... of a decision; the copies (n,) bool that play it, None for all.
ControlStep = Callable[[int, np.ndarray | None], Step]


class Hold(VectorWrapper):
    """Plays `n_action_steps` control steps for each decision; an env_step stays one control step.

    A decision ends where its episode ends, after fewer control steps than the others' where that is
    within it. Then its copy stands at the start of the next episode until all others are done, so
    that every episode begins with a decision on its first observation.

    The reward is the sum over a decision's control steps, divided by `n_action_steps`, so that
    values do not depend on the number. A decision that its episode's end cuts short earns less. The
    infos:

    - `reward_sum` (n,): the sum itself.
    - `success` (n,) bool: any of the decision's control steps succeeded, for a task whose success
      counts at any time; else whether the last did. Absent where the environment reports none.
    - `final_obs` (n, obs_dim): the observation that the decision led to, before any reset.
    - `path` (n_played, n, obs_dim): the observation after each control step, before any reset.
      `n_played` is `n_action_steps`, or less where all episodes have ended. A copy whose decision
      has ended stays at its `final_obs`.
    - `explored` (n_played, n, k): what exploration is measured by after each control step, as the
      path. Absent where the environment gives none.
    - `n_control_steps` (n,): the control steps of each decision.

    Args:
        env: The environment.
        n_action_steps: Control steps for each decision.

    Raises:
        ValueError: `n_action_steps` is below 1, or longer than an episode.
    """

    env: TaskVectorEnv

    def __init__(self, env: TaskVectorEnv, n_action_steps: int) -> None:
        super().__init__(env)
        self.task_spec = env.task_spec
        if not 1 <= n_action_steps <= self.task_spec.episode_steps:
            raise ValueError(
                f"n_action_steps={n_action_steps}: an episode of {self.task_spec.name!r} has "
                f"{self.task_spec.episode_steps} control steps; give 1 to that many"
            )
        self.n_action_steps = n_action_steps
        self._any_time = self.task_spec.success_when == "any"

    def step(self, actions: np.ndarray) -> Step:
        """Holds actions (n, act_dim) in [-1, 1]; the class says what comes back."""
        return self._decision(lambda _, running: self.env.step(actions, *_given(running)))

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
        return self._decision(
            lambda k, running: self.env.step_commands(chunk[:, k], *_given(running))
        )

    def _decision(self, control_step: ControlStep) -> Step:
        """Returns the outcome of one decision."""
        obs, reward, terminated, truncated, infos = control_step(0, None)
        total = np.asarray(reward, np.float32)
        success = infos.get("success")
        final_obs = infos["final_obs"]
        path = [final_obs]
        explored = [infos["explored"]] if "explored" in infos else []
        n_control_steps = np.ones(self.num_envs, np.float32)
        running = ~(terminated | truncated)
        while len(path) < self.n_action_steps and running.any():
            obs, reward, ended, cut, infos = control_step(len(path), running)
            success = self._joined(success, infos.get("success"), running)
            final_obs = np.where(running[:, None], infos["final_obs"], final_obs)
            path.append(final_obs)
            if explored:
                now = np.where(running[:, None], infos["explored"], explored[-1])
                explored.append(now)
            total = total + np.where(running, reward, 0.0).astype(np.float32)
            n_control_steps += running
            terminated = terminated | (running & ended)
            truncated = truncated | (running & cut)
            running = ~(terminated | truncated)
        infos = {
            "reward_sum": total,
            "final_obs": final_obs,
            "_final_obs": ~running,
            "path": np.stack(path),
            "n_control_steps": n_control_steps,
        }
        if success is not None:
            infos["success"] = success
        if explored:
            infos["explored"] = np.stack(explored)
        return obs, total / self.n_action_steps, terminated, truncated, infos

    def _joined(
        self, before: np.ndarray | None, now: np.ndarray | None, running: np.ndarray
    ) -> np.ndarray | None:
        """Returns the success (n,) bool so far; None where no control step has reported one.

        Args:
            before: Success before this control step.
            now: Success of this control step.
            running: The copies that played it.
        """
        if before is None and now is None:
            return None
        nothing = np.zeros(self.num_envs, bool)
        old = nothing if before is None else before
        new = nothing if now is None else now
        return np.where(running, old | new if self._any_time else new, old)


def _given(running: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Returns the argument `running` of a step, or nothing where all copies run.

    Environments that never end within a decision need not know it.
    """
    return () if running is None or running.all() else (running,)
