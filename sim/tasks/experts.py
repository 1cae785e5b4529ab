"""Scripted experts: tasks that demonstrate how they are done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.core.registry import make_vec
from sim.tasks import modes

# Raw obs (n, obs_dim) and actions (n, act_dim) in [-1, 1], float32.
Demonstrations = tuple[np.ndarray, np.ndarray]
FETCH_REACH = "gym:FetchReach-v4"
GOAL = slice(10, 13)  # desired goal in FetchReach's flattened observation
HAND = slice(13, 16)  # achieved goal in FetchReach's flattened observation
GAIN = 10.0  # of full action for a metre: an action of 1 moves the hand by about 5 cm
HAND_NOISE = 0.2


def demonstrations(task: str, n: int, seed: int) -> Demonstrations:
    """Returns demonstrated decisions.

    Args:
        task: Name of the task.
        n: Number of decisions.
        seed: Seeds all random numbers.

    Raises:
        ValueError: The task has no expert. The message lists those that have one.
    """
    if task not in EXPERTS:
        raise ValueError(f"task {task!r} has no expert of its own; there are: {', '.join(EXPERTS)}")
    return EXPERTS[task](n, np.random.default_rng(seed))


def _modes(n: int, rng: np.random.Generator) -> Demonstrations:
    """Returns one decision for each context, with each mode as often as `modes.WEIGHTS` says."""
    obs = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return obs, modes.expert(obs, rng)


def _fetch_reach(n: int, rng: np.random.Generator, n_envs: int = 20) -> Demonstrations:
    """Returns decisions of a proportional controller that moves the hand to the goal, with noise.

    The gripper's action is random.
    """
    env = make_vec(FETCH_REACH, n_envs, int(rng.integers(2**31)))
    rows = []
    shown = []
    obs, _ = env.reset()
    for _ in range(-(-n // n_envs)):
        move = GAIN * (obs[:, GOAL] - obs[:, HAND]) + HAND_NOISE * rng.standard_normal((n_envs, 3))
        action = np.clip(np.concatenate([move, rng.uniform(-1, 1, (n_envs, 1))], 1), -1, 1).astype(
            np.float32
        )
        rows.append(obs)
        shown.append(action)
        obs, *_ = env.step(action)
    env.close()
    return np.concatenate(rows)[:n], np.concatenate(shown)[:n]


EXPERTS: dict[str, Callable[[int, np.random.Generator], Demonstrations]] = {
    modes.TASK: _modes,
    FETCH_REACH: _fetch_reach,
}
