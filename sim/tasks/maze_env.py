"""A batch of one of the mazes as a vector environment without reward (method section 6)."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from sim.core.spec import ActionMap, TaskSpec, tile
from sim.core.vec import SameStepVectorEnv
from sim.tasks.mazes import TASK_PREFIX, Maze

CONTROL_PERIOD_S = 1.0  # nominal: a maze has no clock


def task_spec(maze: Maze) -> TaskSpec:
    """Returns the contract of `maze`: position (2,) and displacement (2,), both in cells."""
    return TaskSpec(
        name=TASK_PREFIX + maze.name.replace("_", "-"),
        obs=tile(("position", "cell", maze.low, maze.high)),
        action=tile(("displacement", "cell", (-1.0, -1.0), (1.0, 1.0))),
        action_map=ActionMap("absolute", (1.0, 1.0), (0.0, 0.0), (-1.0, -1.0), (1.0, 1.0)),
        control_period_s=CONTROL_PERIOD_S,
        episode_steps=maze.episode_length,
    )


class MazeVecEnv(SameStepVectorEnv):
    """`n_envs` points in one maze: obs (x, y), action (dx, dy) in [-1, 1], reward 0.

    An episode is truncated after 50 env_steps and never terminated. Positions are kept in float64; the
    observation is float32.

    Attributes:
        maze: the `Maze`, for `coverage`.
        task_spec: its contract.
        position: (n, 2) float64, where the points are.
    """

    def __init__(self, name: str, n_envs: int, seed: int = 0):
        """Loads the maze `name` (`square_a` or `maze-square-a`)."""
        self.maze = Maze.load(name)
        self.task_spec = task_spec(self.maze)
        obs_space = Box(
            self.maze.low.astype(np.float32), self.maze.high.astype(np.float32), dtype=np.float32
        )
        super().__init__(n_envs, obs_space, 2, self.maze.episode_length, seed)
        self.position = np.zeros((n_envs, 2))

    def _start(self, rows: np.ndarray) -> None:
        self.position[rows] = self.maze.sample_start(self.rng, len(rows))

    def _observe(self) -> np.ndarray:
        return self.position

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        repulsion_u = 1.0 - self.rng.random(
            (self.num_envs, 3)
        )  # in (0, 1]: never exactly on the wall
        self.position = self.maze.step(self.position, action, repulsion_u)
        return np.zeros(self.num_envs), np.zeros(self.num_envs, bool), {}

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns the shared state and the positions (n, 2)."""
        return {**super().get_state(), "position": self.position.copy()}

    def set_state(self, saved: dict[str, np.ndarray | str]) -> None:
        """Goes back to what `get_state` returned."""
        super().set_state(saved)
        self.position = np.array(saved["position"], float)
