"""Tasks that can show how they are done: demonstrations without a person."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.core.registry import make_vec
from sim.tasks import modes

Demonstrations = tuple[
    np.ndarray, np.ndarray
]  # raw obs (n, obs_dim), actions (n, act_dim) in [-1, 1], float32
FETCH_REACH = "gym:FetchReach-v4"
GOAL, HAND = (
    slice(10, 13),
    slice(13, 16),
)  # of FetchReach's flattened observation: desired and achieved goal
GAIN = 10.0  # of full action for a metre: an action of 1 moves the hand by about 5 cm
HAND_NOISE = 0.2


def demonstrations(task: str, n: int, seed: int) -> Demonstrations:
    """Returns `n` demonstrated decisions of `task`.

    Raises:
        ValueError: the task shows nothing; the message lists those that do.
    """
    if task not in EXPERTS:
        raise ValueError(f"task {task!r} has no expert of its own; there are: {', '.join(EXPERTS)}")
    return EXPERTS[task](n, np.random.default_rng(seed))


def _modes(n: int, rng: np.random.Generator) -> Demonstrations:
    """Each context once, each mode as often as `modes.WEIGHTS` says."""
    obs = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return obs, modes.expert(obs, rng)


def _fetch_reach(n: int, rng: np.random.Generator, n_envs: int = 20) -> Demonstrations:
    """A proportional controller of the hand towards the goal, with noise on its hand; the gripper does what it will."""
    env, rows, shown = make_vec(FETCH_REACH, n_envs, int(rng.integers(2**31))), [], []
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
