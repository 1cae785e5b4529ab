"""What is counted for each seed while training collects data: coverage and successes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sim.core.coverage import Coverage
from sim.core.spec import TaskSpec

COUNTED = ("n_episodes", "n_success", "now")


class Observer:
    """Counts episodes, those in which the task succeeded at some time, and coverage.

    Args:
        coverage: Counts what was visited. None: the task has no such measure.
    """

    def __init__(self, coverage: Coverage | None) -> None:
        self.coverage = coverage
        self.n_episodes = 0
        self.n_success = 0
        self._now: np.ndarray | None = None

    def observe(
        self, obs: np.ndarray, path: np.ndarray, success: np.ndarray, ended: np.ndarray
    ) -> None:
        """Takes one decision of n environments.

        Args:
            obs: Observations (n, obs_dim) before it.
            path: Observations (n_action_steps, n, obs_dim) of its control steps.
            success: Whether the task succeeded in it (n,).
            ended: Whether the episode ended with it (n,).
        """
        self._now = success.copy() if self._now is None else self._now | success
        self.n_episodes += int(ended.sum())
        self.n_success += int(self._now[ended].sum())
        self._now[ended] = False
        if self.coverage is not None:
            self.coverage.visit(obs, path)

    def metrics(self) -> dict[str, float]:
        """Returns what was counted."""
        covered = {} if self.coverage is None else {"coverage": self.coverage.share()}
        counts = {"n_episodes": self.n_episodes, "n_success_episodes": self.n_success}
        return {**covered, **counts}

    def state(self) -> dict[str, Any]:
        """Returns a tree for the checkpoint."""
        now = np.zeros(0, np.uint8) if self._now is None else self._now.astype(np.uint8)
        covered = {} if self.coverage is None else self.coverage.state()
        counts = {"n_episodes": self.n_episodes, "n_success": self.n_success}
        return {**counts, "now": torch.from_numpy(now), **covered}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.n_episodes = saved["n_episodes"]
        self.n_success = saved["n_success"]
        now = saved["now"].numpy().astype(bool)
        self._now = now if len(now) else None
        if self.coverage is not None:
            arrays = {name: v.numpy() for name, v in saved.items() if name not in COUNTED}
            self.coverage.load(arrays)


class SeedsObserver:
    """One observer for each seed. Metrics are the mean over seeds, and each seed's `<name>/<seed>`.

    Args:
        observers: The observers, one for each seed.
    """

    def __init__(self, observers: list[Observer]) -> None:
        self.observers = observers

    def observe(
        self, obs: np.ndarray, path: np.ndarray, success: np.ndarray, ended: np.ndarray
    ) -> None:
        """Gives each seed its own environments, which are equal blocks in order.

        Args:
            obs: See Observer.
            path: See Observer.
            success: See Observer.
            ended: See Observer.
        """
        n = len(self.observers)
        parts = (np.split(obs, n), np.split(path, n, 1), np.split(success, n), np.split(ended, n))
        for observer, *part in zip(self.observers, *parts, strict=True):
            observer.observe(*part)

    def metrics(self) -> dict[str, float]:
        """Returns the means, then each seed's own."""
        each = [observer.metrics() for observer in self.observers]
        mean = {name: float(np.mean([m[name] for m in each])) for name in each[0]}
        return mean | {f"{name}/{i}": v for i, m in enumerate(each) for name, v in m.items()}

    def state(self) -> dict[str, Any]:
        """Returns a tree for the checkpoint."""
        return {"seeds": [observer.state() for observer in self.observers]}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        for observer, part in zip(self.observers, saved["seeds"], strict=True):
            observer.load(part)


def make_observer(spec: TaskSpec, n_seeds: int = 1) -> SeedsObserver:
    """Returns an observer of the task for each of `n_seeds` learners."""
    made = spec.new_coverage
    return SeedsObserver([Observer(made() if made else None) for _ in range(n_seeds)])
