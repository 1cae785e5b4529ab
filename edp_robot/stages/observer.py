"""What is counted while training collects data: coverage, successes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sim import arm


class Observer:
    """Counts episodes, and those in which the task succeeded at some time."""

    def __init__(self) -> None:
        self.n_episodes, self.n_success = 0, 0
        self._now: np.ndarray | None = None

    def observe(self, path: np.ndarray, success: np.ndarray, ended: np.ndarray) -> None:
        """Takes observations (n_action_steps, n, obs_dim), success (n,) and ended (n,) of one decision."""
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
        return {"n_episodes": self.n_episodes, "n_success": self.n_success, "now": torch.from_numpy(now)}

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

    def observe(self, path: np.ndarray, success: np.ndarray, ended: np.ndarray) -> None:
        """Also collects end-effector voxels."""
        super().observe(path, success, ended)
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


def make_observer(task: str) -> Observer:
    """Returns what counts for `task`."""
    return ArmObserver() if task in arm.task_names() else Observer()
