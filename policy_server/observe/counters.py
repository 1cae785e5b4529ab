"""Counts what a server does: answers by status, and how long requests waited and took."""

from collections import Counter
from typing import Any

from policy_server.observe.histogram import Histogram

TIMES = ("queue_us", "inference_us", "server_us")


class Counters:
    """Counts of one server. Adding is cheap, and no request pays for work that another one left.

    Attributes:
        statuses: Answers by name of their status, and the replies that could not be delivered.
        batches: Batches by size.
        reloads: Reloads and rollbacks by outcome.
        histograms: One histogram for each of TIMES.
    """

    def __init__(self):
        self.statuses: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self.reloads: Counter[str] = Counter()
        self.histograms = {name: Histogram() for name in TIMES}
        self._queue, self._inference, self._server = self.histograms.values()

    def add(self, queue_us: int, inference_us: int, server_us: int) -> None:
        """Counts the times of one answered request.

        Args:
            queue_us: Time from arrival to the start of the work [us].
            inference_us: Time in the policy [us].
            server_us: Time from arrival to the end of the work [us].
        """
        self._queue.add(queue_us)
        self._inference.add(inference_us)
        self._server.add(server_us)

    def to_json(self) -> dict[str, Any]:
        """Returns counts (by status), n_batches (by size), reloads, and a summary of each time."""
        return {
            "counts": dict(self.statuses),
            "n_batches": {str(size): n for size, n in sorted(self.batches.items())},
            "reloads": dict(self.reloads),
            **{name: histogram.to_json() for name, histogram in self.histograms.items()},
        }
