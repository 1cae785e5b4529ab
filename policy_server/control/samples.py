"""Keeps a run's raw numbers, however long it lasts."""

from collections import deque

import numpy as np

BLOCK = 65_536
N_BLOCKS = 128


class Samples:
    """Whole numbers in the order of their arrival. The newest BLOCK * N_BLOCKS are kept.

    A block is never moved, so that no tick has to wait for a copy of all numbers so far.
    """

    def __init__(self) -> None:
        self._blocks: deque[np.ndarray] = deque(maxlen=N_BLOCKS)
        self._n_used = BLOCK

    def add(self, value: int) -> None:
        """Keeps a number."""
        if self._n_used == BLOCK:
            self._blocks.append(np.zeros(BLOCK, np.int64))
            self._n_used = 0
        self._blocks[-1][self._n_used] = value
        self._n_used += 1

    def array(self) -> np.ndarray:
        """Returns a copy of the numbers (n,) int64."""
        if not self._blocks:
            return np.zeros(0, np.int64)
        *full, newest = self._blocks
        return np.concatenate([*full, newest[: self._n_used]])
