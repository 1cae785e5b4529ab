"""The one list of tasks: names, specs and vectorised environments."""

from __future__ import annotations

import difflib

from gymnasium.vector import VectorEnv

from sim.core.spec import TaskSpec
from sim.tasks import arm, mazes, modes
from sim.tasks.maze_env import MazeVecEnv

GYM = "gym:"


def task_names() -> tuple[str, ...]:
    """Returns every name that `make_vec` knows; `gym:<id>` stands for any Gymnasium environment."""
    return (*arm.task_names(), *mazes.task_names(), modes.TASK, f"{GYM}<id>")


def make_vec(task: str, n_envs: int = 1, seed: int = 0) -> VectorEnv:
    """Returns `n_envs` copies of `task` as one VectorEnv (see `sim.core.vec`) with a `task_spec`.

    Raises:
        ValueError: unknown task; the message lists those that exist.
    """
    if task.startswith(GYM):
        from sim.tasks import gym as gym_tasks

        return gym_tasks.make_vec(task.removeprefix(GYM), n_envs, seed)
    if task in arm.task_names():
        return arm.make_vec(task, n_envs, seed)
    if task in mazes.task_names():
        return MazeVecEnv(task, n_envs, seed)
    if task == modes.TASK:
        return modes.ModesVecEnv(n_envs, seed)
    close = difflib.get_close_matches(task, task_names(), 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"no task {task!r}.{hint} There are: {', '.join(task_names())}")


def task_spec(task: str) -> TaskSpec:
    """Returns the spec of `task`.

    Raises:
        ValueError: unknown task.
    """
    env = make_vec(task, 1, 0)
    try:
        return env.task_spec  # type: ignore[attr-defined]
    finally:
        env.close()
