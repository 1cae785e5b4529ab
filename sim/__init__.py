"""Worlds: a desk arm, mazes, any Gymnasium environment, and a simulated robot in real time. No torch in here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


def make_vec(task: str, n_envs: int = 1, seed: int = 0) -> VectorEnv:
    """Returns `n_envs` copies of `task` as one VectorEnv; see `sim.core.registry.make_vec`.

    Raises:
        ValueError: unknown task; the message lists those that exist.
    """
    from sim.core.registry import make_vec as make

    return make(task, n_envs, seed)


__all__ = ["make_vec"]
