"""How much of its space a learner has visited: voxels of a point's path, bins of a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np


class Coverage(Protocol):
    """Counts what one learner visits."""

    def visit(self, obs: np.ndarray, path: np.ndarray) -> None:
        """Takes one decision of n environments.

        The obs (n, obs_dim) is the one before the decision. The path (n_action_steps, n, obs_dim)
        holds the obs after each control step. Of a task with `explored` numbers both hold these.
        """

    def share(self) -> float:
        """Returns the share of what can be reached that was visited."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Returns the arrays of a checkpoint."""
        ...

    def load(self, saved: dict[str, np.ndarray]) -> None:
        """Goes back to what `state` returned."""


@runtime_checkable
class HasMeasures(Protocol):
    """A coverage that counts several things. Training logs each by its name."""

    def measures(self) -> dict[str, float]:
        """Returns each count or share by the name that it is logged by."""
        ...


class SeveralCoverages:
    """Counts several subspaces at once; the first is the main one, whose share is `coverage`.

    Args:
        counters: By the names that they are logged by, such as `coverage_torso`.
    """

    def __init__(self, counters: Mapping[str, Coverage]) -> None:
        self._counters = dict(counters)
        self._main = next(iter(self._counters))

    def visit(self, obs: np.ndarray, path: np.ndarray) -> None:
        """Shows one decision to all."""
        for counter in self._counters.values():
            counter.visit(obs, path)

    def share(self) -> float:
        """Returns the main one's share."""
        return self._counters[self._main].share()

    def measures(self) -> dict[str, float]:
        """Returns what each has counted, the main one too."""
        return {name: counter.share() for name, counter in self._counters.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Returns the arrays of all: the main one's by their names, others' as `<name>.<array>`."""
        return {
            self._stored(name, key): array
            for name, counter in self._counters.items()
            for key, array in counter.state().items()
        }

    def load(self, saved: dict[str, np.ndarray]) -> None:
        """Goes back to what `state` returned. What an older checkpoint lacks begins empty."""
        for name, counter in self._counters.items():
            stored = {key: self._stored(name, key) for key in counter.state()}
            if all(key in saved for key in stored.values()):
                counter.load({key: saved[place] for key, place in stored.items()})

    def _stored(self, name: str, key: str) -> str:
        return key if name == self._main else f"{name}.{key}"


class VoxelCoverage:
    """Counts the cubes that a point in space passes through.

    Args:
        columns: Where the point (x, y, z) [m] stands in the obs.
        voxel_m: Edge of a cube [m].
        reachable: Returns the cubes that count, as index triples. Called when a share is first
            asked for.
    """

    def __init__(
        self, columns: slice, voxel_m: float, reachable: Callable[[], frozenset[tuple[int, ...]]]
    ) -> None:
        self._columns = columns
        self._voxel_m = voxel_m
        self._reachable = reachable
        self._visited = np.zeros((0, 3), np.int64)

    def visit(self, obs: np.ndarray, path: np.ndarray) -> None:
        """Adds the cubes on the path."""
        new = voxels(path[..., self._columns].reshape(-1, 3), self._voxel_m)
        self._visited = np.unique(np.concatenate([self._visited, new]), axis=0)

    def share(self) -> float:
        """Returns the share of the reachable cubes that were visited."""
        reachable = self._reachable()
        return len(reachable & set(map(tuple, self._visited.tolist()))) / len(reachable)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the visited cubes, (m, 3) int64."""
        return {"visited": self._visited}

    def load(self, saved: dict[str, np.ndarray]) -> None:
        """Goes back to what `state` returned."""
        self._visited = np.array(saved["visited"], np.int64)


class BinCoverage:
    """Counts the bins of a fixed grid, an episode's first obs included (method section 6).

    Args:
        bin_index: Returns the bin (m,) int of each obs (m, obs_dim).
        n_bins: Number of bins.
        n_reachable: Number of bins that count as the whole.
    """

    def __init__(
        self, bin_index: Callable[[np.ndarray], np.ndarray], n_bins: int, n_reachable: float
    ) -> None:
        self._bin_index = bin_index
        self._n_reachable = n_reachable
        self._visited = np.zeros(n_bins, bool)

    def visit(self, obs: np.ndarray, path: np.ndarray) -> None:
        """Marks the bins of the obs and of the path."""
        seen = np.concatenate([obs[None], path]).reshape(-1, obs.shape[-1])
        self._visited[self._bin_index(seen)] = True

    def share(self) -> float:
        """Returns the share of bins that were visited."""
        return float(self._visited.sum() / self._n_reachable)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the marks, (n_bins,) uint8."""
        return {"visited": self._visited.astype(np.uint8)}

    def load(self, saved: dict[str, np.ndarray]) -> None:
        """Goes back to what `state` returned."""
        self._visited = np.array(saved["visited"]).astype(bool)


def voxels(positions: np.ndarray, voxel_m: float) -> np.ndarray:
    """Returns the distinct cubes (n, 3) int that positions (m, 3) [m] fall into."""
    return np.unique(np.floor(positions / voxel_m).astype(np.int64), axis=0)
