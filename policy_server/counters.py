"""What a server counts: answers by status, and how long requests waited and took."""

from collections import Counter
from typing import Any

import numpy as np

from policy_server.stats import Histogram

TIMES = ("queue_us", "inference_us", "server_us")
_FOLD = 256  # requests whose times are kept as they are before they go to the histograms together


class Counters:
    """Cheap to write on the hot path, summed up when somebody looks.

    Attributes:
        statuses: Answers by name of status, and what else was counted.
        batches: Batches by size.
        reloads: Reloads and rollbacks by outcome.
    """

    def __init__(self):
        self.statuses: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self.reloads: Counter[str] = Counter()
        self._histograms = {name: Histogram() for name in TIMES}
        self._fresh: list[tuple[int, int, int]] = []

    def add(self, queue_us: int, inference_us: int, server_us: int) -> None:
        """Counts the times of a served request [us]."""
        self._fresh.append((queue_us, inference_us, server_us))
        if len(self._fresh) >= _FOLD:
            self.histograms()

    def histograms(self) -> dict[str, Histogram]:
        """Returns the histograms of TIMES, everything counted so far in them."""
        fresh, self._fresh = self._fresh, []
        if fresh:
            for histogram, values in zip(self._histograms.values(), np.array(fresh).T, strict=True):
                histogram.add_many(values)
        return self._histograms

    def to_json(self) -> dict[str, Any]:
        """Returns counts by status, n_batches by size, reloads by outcome, and a summary of each of TIMES."""
        return {
            "counts": dict(self.statuses),
            "n_batches": {str(size): n for size, n in sorted(self.batches.items())},
            "reloads": dict(self.reloads),
            **{name: histogram.to_json() for name, histogram in self.histograms().items()},
        }
