"""The seven square mazes of the paper's reward-free experiments (method section 6).

A maze is a plane with unit cells centred on integer coordinates. Walls lie on the half-integer grid
lines. Everything is NumPy over a batch of points: there is no loop over points.
"""

from __future__ import annotations

import json
from functools import cache, cached_property, partial
from importlib import resources
from typing import Any

import numpy as np

from sim.core.action_map import ActionMap
from sim.core.coverage import BinCoverage
from sim.core.registry import TASKS
from sim.core.spec import Part, TaskSpec, tile
from sim.core.vec import SameStepVectorEnv

TASK_PREFIX = "maze-"
CONTROL_PERIOD_S = 1.0  # nominal: a maze has no clock
MAX_COLLISIONS = 4  # at the fourth a move stops at the wall
REPULSION = 0.01  # largest step back from a wall that was hit [cells]
CELL_SHIFT = 0.999  # the wall of a crossing belongs to the cell just before it


@cache
def _data() -> dict[str, Any]:
    """Returns the shipped description of all mazes, by name (`square_a`, ...)."""
    text = resources.files("sim").joinpath("assets/mazes.json").read_text()
    return {name: maze for name, maze in json.loads(text).items() if not name.startswith("_")}


def task_names() -> list[str]:
    """Returns the names of the maze tasks, `maze-square-a` to `maze-square-large`."""
    return [TASK_PREFIX + name.replace("_", "-") for name in _data()]


class Maze:
    """One maze: `sample_start` draws points, `step` moves them, `coverage` counts what they visit.

    Attributes:
        name: Name in the data, such as `square_a`.
        low: (2,) lower corner of the bounding box.
        high: (2,) upper corner of the bounding box.
        episode_length: env_steps in an episode.
        n_bins: (2,) int, the coverage grid.
        n_reachable: Bins that count as the whole (the released metric's denominator).
        max_coverage: The largest value that the metric can have in this maze.
    """

    def __init__(self, name: str, data: dict[str, Any]):
        """Builds the lookup tables from one entry of `sim/assets/mazes.json`."""
        metric = data["metric"]
        self.name = name
        self.low, self.high = np.array(data["bounds"])
        self.episode_length = int(data["episode_length"])
        self.n_bins = np.array([metric["nx"], metric["ny"]])
        self.n_reachable = float(metric["denominator_bins"])
        self.max_coverage = float(metric["max_coverage"])
        self._start_cells = np.array(data["start"]["cells"])
        self._start_margin = float(data["start"]["min_wall_dist"])
        # Cell of the table's corner. There is one empty cell around the maze.
        self._origin = np.round(self.low).astype(int) - 1
        self._blocked = self._wall_table(np.array(data["walls"]))
        self._last_cell = np.array(self._blocked.shape[:2]) - 1

    @classmethod
    def load(cls, name: str) -> Maze:
        """Returns the maze called `name`: `square_a` or, as a task, `maze-square-a`.

        Raises:
            ValueError: There is no such maze. The message lists those that exist.
        """
        key = name.removeprefix(TASK_PREFIX).replace("-", "_")
        if key not in _data():
            raise ValueError(f"unknown maze {name!r}; the mazes are {', '.join(task_names())}")
        return cls(key, _data()[key])

    def _wall_table(self, walls: np.ndarray) -> np.ndarray:
        """Returns (nx, ny, axis, side) bool: whether the cell's side along `axis` is a wall.

        Side 0 is the lower one, side 1 the upper one. The walls (n_walls, 2, 2) are end points of
        unit segments.
        """
        shape = np.round(self.high).astype(int) - self._origin + 2
        table = np.zeros((*shape, 2, 2), bool)
        axis = np.argmin(np.ptp(walls, axis=1), axis=1)  # along the wall's normal
        shift = 0.5 * np.eye(2)[axis]
        for side, sign in ((0, 1), (1, -1)):
            cell = np.round(walls.mean(axis=1) + sign * shift).astype(int) - self._origin
            table[cell[:, 0], cell[:, 1], axis, side] = True
        return table

    def step(self, state: np.ndarray, action: np.ndarray, repulsion_u: np.ndarray) -> np.ndarray:
        """Returns where moves by `action` from `state` end, (n, 2).

        Args:
            state: (n, 2) positions inside the maze.
            action: (n, 2) displacements, each in [-1, 1].
            repulsion_u: (n, 3) numbers in (0, 1]; the i-th is used at a move's i-th collision.
                Others may be NaN.

        Raises:
            ValueError: The shapes do not fit, or `state` or `action` is not finite.
        """
        position = np.array(state, float)
        move = np.array(action, float)
        repulsion_u = np.asarray(repulsion_u, float)
        _check(position, move, repulsion_u)
        rows = np.arange(len(position))
        for i in range(MAX_COLLISIONS):
            c = position[rows]
            d = move[rows]
            r, axis = self._first_wall(c, d)
            hit = np.isfinite(r)
            position[rows[~hit]] = c[~hit] + d[~hit]
            if not hit.any():
                break
            rows = rows[hit]
            d = d[hit]
            r = r[hit]
            axis = axis[hit]
            position[rows] = c[hit] + r[:, None] * d
            if i == MAX_COLLISIONS - 1:
                break
            k = np.arange(len(rows))
            position[rows, axis] -= np.sign(d[k, axis]) * REPULSION * repulsion_u[rows, i]
            move[rows] = d * (1 - r)[:, None]
            move[rows, axis] = 0.0
        return position

    def _first_wall(self, c: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the fraction (n,) of each move at its first wall, and that wall's axis (n,).

        Moves go by `d` (n, 2) from `c` (n, 2). The fraction is infinite where no wall blocks. Of
        two walls that are met at once, the direction that comes first by name counts (down, left,
        right, up): the y axis when the move goes down, else the x axis.
        """
        cell = np.round(c)
        n_lines = np.abs(np.round(c + d) - cell)
        sign = np.sign(d)
        first = np.full(c.shape, np.inf)
        for k in range(int(n_lines.max(initial=0))):
            row, axis = np.nonzero((n_lines > k) & np.isinf(first))
            r = (cell[row, axis] + sign[row, axis] * (k + 0.5) - c[row, axis]) / d[row, axis]
            at = np.round(c[row] + CELL_SHIFT * r[:, None] * d[row]).astype(int) - self._origin
            at = np.minimum(np.maximum(at, 0), self._last_cell)
            walled = self._blocked[at[:, 0], at[:, 1], axis, (sign[row, axis] > 0).astype(int)]
            first[row[walled], axis[walled]] = r[walled]
        y_first = (first[:, 1] < first[:, 0]) | ((first[:, 1] == first[:, 0]) & (d[:, 1] < 0))
        return first.min(axis=1), y_first.astype(int)

    def sample_start(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Returns `n` first positions (n, 2): uniform in the start cell, away from its walls.

        A draw is rejected where a move by 0.05 outwards on both axes hits a wall.
        """
        start = np.empty((n, 2))
        todo = np.arange(n)
        while todo.size:
            cell = self._start_cells[rng.integers(len(self._start_cells), size=todo.size)]
            start[todo] = cell + rng.uniform(-0.5, 0.5, (todo.size, 2))
            outwards = self._start_margin * np.sign(start[todo] - cell)
            todo = todo[np.isfinite(self._first_wall(start[todo], outwards)[0])]
        return start

    def bin_index(self, positions: np.ndarray) -> np.ndarray:
        """Returns the coverage bin (n,) int of each of `positions` (n, 2)."""
        share = (np.asarray(positions, float) - self.low) / (self.high - self.low)
        index = (np.clip(share, 0, 1 - 1e-4) * self.n_bins).astype(int)
        return index[:, 0] * self.n_bins[1] + index[:, 1]

    def coverage(self, positions: np.ndarray) -> float:
        """Returns the share of the maze's bins that `positions` (n, 2) lie in.

        This is the released metric. The figures of the paper use all 51 observations of the first
        2000 episodes.

        Raises:
            ValueError: `positions` do not have the shape (n, 2), or are not finite.
        """
        positions = np.asarray(positions, float)
        if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
            raise ValueError(
                f"positions must be finite, of shape (n, 2), got shape {positions.shape}"
            )
        return len(np.unique(self.bin_index(positions))) / self.n_reachable


def _check(state: np.ndarray, action: np.ndarray, repulsion_u: np.ndarray) -> None:
    """Raises ValueError unless the arguments of `Maze.step` fit together."""
    n = len(state) if state.ndim else 0
    shapes = {
        "state": (state, (n, 2)),
        "action": (action, (n, 2)),
        "repulsion_u": (repulsion_u, (n, 3)),
    }
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not (np.isfinite(state).all() and np.isfinite(action).all()):
        raise ValueError("state or action is not finite; a maze moves finite points only")


class MazeTask:
    """A maze without reward: obs (x, y), action (dx, dy) in [-1, 1].

    Args:
        name: Name of the maze or of its task.
    """

    def __init__(self, name: str) -> None:
        self.maze = Maze.load(name)

    @cached_property
    def spec(self) -> TaskSpec:
        """Position (2,) and displacement (2,), both in cells."""
        maze = self.maze
        unit = np.ones(2)
        return TaskSpec(
            name=TASK_PREFIX + maze.name.replace("_", "-"),
            obs=tile(Part("position", "cell", maze.low, maze.high, entries=("x", "y"))),
            action=tile(Part("displacement", "cell", -unit, unit, entries=("dx", "dy"))),
            action_map=ActionMap.spread(-unit, unit),
            control_period_s=CONTROL_PERIOD_S,
            episode_steps=maze.episode_length,
            domain="maze",
            new_coverage=self.new_coverage,
        )

    def new_coverage(self) -> BinCoverage:
        """Returns a counter of the maze's bins."""
        maze = self.maze
        return BinCoverage(maze.bin_index, int(maze.n_bins.prod()), maze.n_reachable)

    def make_vec(self, n_envs: int, seed: int) -> MazeVecEnv:
        """Returns `n_envs` points in the maze as one vector environment."""
        return MazeVecEnv(self, n_envs, seed)


class MazeVecEnv(SameStepVectorEnv):
    """`n_envs` points in one maze. The reward is 0.

    An episode is truncated after 50 env_steps and never terminated. Positions are float64, the
    observation is float32.

    Args:
        task: The maze's task.
        n_envs: Number of points.
        seed: Seeds the first `reset()` that gives no seed itself.

    Attributes:
        maze: The maze.
        position: (n, 2) float64.
    """

    def __init__(self, task: MazeTask, n_envs: int, seed: int = 0) -> None:
        super().__init__(task.spec, n_envs, seed)
        self.maze = task.maze
        self.position = np.zeros((n_envs, 2))

    def _start(self, rows: np.ndarray) -> None:
        self.position[rows] = self.maze.sample_start(self.rng, len(rows))

    def _observe(self) -> np.ndarray:
        return self.position

    def _advance(self, command: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        # In (0, 1]: a point never ends exactly on the wall.
        repulsion_u = 1.0 - self.rng.random((self.num_envs, 3))
        self.position = self.maze.step(self.position, command, repulsion_u)
        return np.zeros(self.num_envs), np.zeros(self.num_envs, bool), {}

    def get_state(self) -> dict[str, np.ndarray | str]:
        """Returns the shared state and the positions (n, 2)."""
        return {**super().get_state(), "position": self.position.copy()}

    def set_state(self, saved: dict[str, np.ndarray | str]) -> None:
        """Goes back to what `get_state` returned."""
        super().set_state(saved)
        self.position = np.array(saved["position"], float)


for _name in task_names():
    TASKS.register(_name)(partial(MazeTask, _name))
