"""What is counted while training collects data, for each seed: coverage, successes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sim.tasks import arm, mazes
from sim.tasks.mazes import Maze


class Observer:
    """Counts episodes, and those in which the task succeeded at some time."""

    def __init__(self) -> None:
        self.n_episodes, self.n_success = 0, 0
        self._now: np.ndarray | None = None

    def observe(
        self, obs: np.ndarray, path: np.ndarray, success: np.ndarray, ended: np.ndarray
    ) -> None:
        """Takes one decision: obs (n, obs_dim) before it, path (n_action_steps, n, obs_dim), success and ended (n,)."""
        self._now = success.copy() if self._now is None else self._now | success
        self.n_episodes += int(ended.sum())
        self.n_success += int(self._now[ended].sum())
        self._now[ended] = False

    def metrics(self) -> dict[str, float]:
        """Returns what has been counted."""
        return {"n_episodes": self.n_episodes, "n_success_episodes": self.n_success}

    def state(self) -> dict[str, Any]:
        """Returns a tree for the checkpoint."""
        now = np.zeros(0, np.uint8) if self._now is None else self._now.astype(np.uint8)
        return {
            "n_episodes": self.n_episodes,
            "n_success": self.n_success,
            "now": torch.from_numpy(now),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.n_episodes, self.n_success = saved["n_episodes"], saved["n_success"]
        now = saved["now"].numpy().astype(bool)
        self._now = now if len(now) else None


class ArmObserver(Observer):
    """Adds the workspace: distinct voxels that the end effector visited."""

    def __init__(self) -> None:
        super().__init__()
        self.visited = np.zeros((0, 3), np.int64)

    def observe(
        self, obs: np.ndarray, path: np.ndarray, success: np.ndarray, ended: np.ndarray
    ) -> None:
        """Also collects end-effector voxels."""
        super().observe(obs, path, success, ended)
        new = arm.voxels(path[..., arm.END_EFFECTOR].reshape(-1, 3))
        self.visited = np.unique(np.concatenate([self.visited, new]), axis=0)

    def metrics(self) -> dict[str, float]:
        """Also the share of reachable voxels visited."""
        reachable = arm.reachable_voxels()
        share = len(reachable & set(map(tuple, self.visited.tolist()))) / len(reachable)
        return {"coverage": share, **super().metrics()}

    def state(self) -> dict[str, Any]:
        """Also the voxels."""
        return {**super().state(), "visited": torch.from_numpy(self.visited)}

    def load(self, saved: dict[str, Any]) -> None:
        """Also the voxels."""
        super().load(saved)
        self.visited = saved["visited"].numpy()


class MazeObserver(Observer):
    """Adds the maze: bins of its grid that were visited, by the released metric (method section 6)."""

    def __init__(self, maze: Maze) -> None:
        super().__init__()
        self.maze, self.visited = maze, np.zeros(int(maze.n_bins.prod()), bool)

    def observe(
        self, obs: np.ndarray, path: np.ndarray, success: np.ndarray, ended: np.ndarray
    ) -> None:
        """Also marks bins, an episode's first observation included."""
        super().observe(obs, path, success, ended)
        self.visited[self.maze.bin_index(np.concatenate([obs[None], path]).reshape(-1, 2))] = True

    def metrics(self) -> dict[str, float]:
        """Also the share of the maze's bins visited."""
        return {"coverage": self.visited.sum() / self.maze.n_reachable, **super().metrics()}

    def state(self) -> dict[str, Any]:
        """Also the bins."""
        return {**super().state(), "visited": torch.from_numpy(self.visited.astype(np.uint8))}

    def load(self, saved: dict[str, Any]) -> None:
        """Also the bins."""
        super().load(saved)
        self.visited = saved["visited"].numpy().astype(bool)


class SeedsObserver:
    """One observer a seed; metrics are the mean over seeds, and `<name>/<seed>` each."""

    def __init__(self, observers: list[Observer]) -> None:
        self.observers = observers

    def observe(
        self, obs: np.ndarray, path: np.ndarray, success: np.ndarray, ended: np.ndarray
    ) -> None:
        """Gives each seed its own environments, equal blocks of the second to last axis."""
        n = len(self.observers)
        parts = (np.split(obs, n), np.split(path, n, 1), np.split(success, n), np.split(ended, n))
        for observer, *part in zip(self.observers, *parts, strict=True):
            observer.observe(*part)

    def metrics(self) -> dict[str, float]:
        """Returns means, then every seed's own."""
        each = [o.metrics() for o in self.observers]
        mean = {k: float(np.mean([m[k] for m in each])) for k in each[0]}
        return mean | {f"{k}/{i}": v for i, m in enumerate(each) for k, v in m.items()}

    def state(self) -> dict[str, Any]:
        """Returns a tree for the checkpoint."""
        return {"seeds": [o.state() for o in self.observers]}

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        for observer, part in zip(self.observers, saved["seeds"], strict=True):
            observer.load(part)


def make_observer(task: str, n_seeds: int = 1) -> SeedsObserver:
    """Returns what counts for `task`, for each of `n_seeds` learners."""

    def one() -> Observer:
        if task in arm.task_names():
            return ArmObserver()
        return MazeObserver(Maze.load(task)) if task in mazes.task_names() else Observer()

    return SeedsObserver([one() for _ in range(n_seeds)])
