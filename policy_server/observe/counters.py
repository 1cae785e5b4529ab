"""What a server counts: answers by status, and how long requests waited and took."""

from collections import Counter
from typing import Any

from policy_server.bench.statistics import Histogram

TIMES = ("queue_us", "inference_us", "server_us")


class Counters:
    """Cheap to write on the hot path; nothing is put off to some unlucky request.

    Attributes:
        statuses: Answers by name of status, and what else was counted.
        batches: Batches by size.
        reloads: Reloads and rollbacks by outcome.
        histograms: Of TIMES.
    """

    def __init__(self):
        self.statuses: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self.reloads: Counter[str] = Counter()
        self.histograms = {name: Histogram() for name in TIMES}
        self._each = tuple(self.histograms.values())

    def add(self, queue_us: int, inference_us: int, server_us: int) -> None:
        """Counts the times of a served request [us]."""
        for histogram, value_us in zip(
            self._each, (queue_us, inference_us, server_us), strict=True
        ):
            histogram.add(value_us)

    def to_json(self) -> dict[str, Any]:
        """Returns counts by status, n_batches by size, reloads by outcome, and a summary of each of TIMES."""
        return {
            "counts": dict(self.statuses),
            "n_batches": {str(size): n for size, n in sorted(self.batches.items())},
            "reloads": dict(self.reloads),
            **{name: histogram.to_json() for name, histogram in self.histograms.items()},
        }
