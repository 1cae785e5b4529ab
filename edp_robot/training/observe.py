"""What is counted for each seed while training collects data: coverage, successes, returns."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sim.core.coverage import Coverage, HasMeasures
from sim.core.spec import TaskSpec

COUNTED = ("n_episodes", "n_success", "now", "running", "recent", "reports")
N_RECENT = 100  # episodes that the logged return is the mean of


@dataclass(frozen=True)
class Decision:
    """What one decision of n environments shows.

    Attributes:
        obs: Observations (n, obs_dim) before it.
        path: Observations (n_action_steps, n, obs_dim) of its control steps.
        reward: Sum of the rewards of its control steps (n,).
        success: Whether the task succeeded in it (n,). None: the environment reports no success.
        ended: Whether the episode ended with it (n,).
        explored: What exploration is measured by (n_action_steps, n, k), as the path. None: it is
            the obs.
    """

    obs: np.ndarray
    path: np.ndarray
    reward: np.ndarray
    success: np.ndarray | None
    ended: np.ndarray
    explored: np.ndarray | None = None

    def split(self, n: int) -> list[Decision]:
        """Returns the decisions of `n` equal blocks of environments."""
        successes = [None] * n if self.success is None else np.split(self.success, n)
        rows = zip(
            np.split(self.obs, n),
            np.split(self.path, n, 1),
            np.split(self.reward, n),
            successes,
            np.split(self.ended, n),
            [None] * n if self.explored is None else np.split(self.explored, n, 1),
            strict=True,
        )
        return [Decision(*row) for row in rows]

    def visited(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns what a Coverage takes: the numbers (n, k) before, and those on the path.

        No environment tells what is explored before an episode's first control step, so that of a
        decision's first control step stands for it.
        """
        if self.explored is None:
            return self.obs, self.path
        return self.explored[0], self.explored


class Observer:
    """Counts episodes, their returns, those in which the task succeeded at some time, and coverage.

    Args:
        coverage: Counts what was visited. None: the task has no such measure.
    """

    def __init__(self, coverage: Coverage | None) -> None:
        self.coverage = coverage
        self.n_episodes = 0
        self.n_success = 0
        self._reports = False
        self._recent: deque[float] = deque(maxlen=N_RECENT)
        self._now: np.ndarray | None = None
        self._running: np.ndarray | None = None

    def observe(self, seen: Decision) -> None:
        """Takes one decision of n environments."""
        ended = seen.ended
        n = len(ended)
        now = np.zeros(n, bool) if self._now is None else self._now
        running = np.zeros(n) if self._running is None else self._running
        if seen.success is not None:
            self._reports = True
            now = now | seen.success
        running = running + seen.reward
        self.n_episodes += int(ended.sum())
        self.n_success += int(now[ended].sum())
        self._recent.extend(running[ended].tolist())
        self._now = now & ~ended
        self._running = np.where(ended, 0.0, running)
        if self.coverage is not None:
            self.coverage.visit(*seen.visited())

    def forget(self) -> None:
        """Forgets the running episodes, where the environments begin new ones."""
        self._now = None
        self._running = None

    def metrics(self) -> dict[str, float]:
        """Returns what was counted.

        `episode_return` is the mean over the newest episodes. `n_success_episodes` is left out
        where the environment reports no success. A coverage of several subspaces adds theirs.
        """
        covered = {} if self.coverage is None else {"coverage": self.coverage.share()}
        if isinstance(self.coverage, HasMeasures):
            covered |= self.coverage.measures()
        counts: dict[str, float] = {"n_episodes": self.n_episodes}
        if self._reports:
            counts["n_success_episodes"] = self.n_success
        if self._recent:
            counts["episode_return"] = float(np.mean(self._recent))
        return {**covered, **counts}

    def state(self) -> dict[str, Any]:
        """Returns a tree for the checkpoint."""
        now = np.zeros(0, np.uint8) if self._now is None else self._now.astype(np.uint8)
        running = np.zeros(0) if self._running is None else self._running
        covered = {} if self.coverage is None else self.coverage.state()
        counts = {"n_episodes": self.n_episodes, "n_success": self.n_success}
        arrays = {"now": now, "running": running, "recent": np.array(self._recent, np.float64)}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {**counts, "reports": self._reports, **tensors, **covered}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned. Older checkpoints hold no returns."""
        self.n_episodes = saved["n_episodes"]
        self.n_success = saved["n_success"]
        self._reports = saved.get("reports", self.n_success > 0)
        nothing = torch.zeros(0)
        now = saved["now"].numpy().astype(bool)
        running = saved.get("running", nothing).numpy()
        self._now = now if len(now) else None
        self._running = running.copy() if len(running) else None
        self._recent = deque(saved.get("recent", nothing).tolist(), maxlen=N_RECENT)
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

    def observe(self, seen: Decision) -> None:
        """Gives each seed its own environments, which are equal blocks in order."""
        parts = seen.split(len(self.observers))
        for observer, part in zip(self.observers, parts, strict=True):
            observer.observe(part)

    def forget(self) -> None:
        """Forgets the running episodes, where the environments begin new ones."""
        for observer in self.observers:
            observer.forget()

    def metrics(self) -> dict[str, float]:
        """Returns the means over the seeds that have a metric, then each seed's own."""
        each = [observer.metrics() for observer in self.observers]
        names = list(dict.fromkeys(name for found in each for name in found))
        mean = {name: float(np.mean([m[name] for m in each if name in m])) for name in names}
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
