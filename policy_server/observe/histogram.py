"""Counts latencies in buckets, cheaply enough for a server's hot path."""

import math
from typing import Any

BUCKETS_PER_OCTAVE = 8
_N_BUCKETS = 32 * BUCKETS_PER_OCTAVE
_N_TABLE = 4096  # Latencies whose bucket is looked up [us].


def nearest_rank(n: int, p: float) -> int:
    """Returns the rank, from 1, of the p-quantile among `n` samples in rising order."""
    return max(math.ceil(p * n - 1e-9), 1)


def _bucket(value_us: int) -> int:
    """Returns the bucket of a latency [us]."""
    if value_us <= 1:
        return 0
    return min(math.ceil(math.log2(value_us) * BUCKETS_PER_OCTAVE), _N_BUCKETS - 1)


_BUCKETS = bytes(_bucket(value_us) for value_us in range(_N_TABLE))


class Histogram:
    """Counts latencies in buckets that grow by 2^(1/8) (9 %) each, from 1 us to over an hour.

    Bucket i counts latencies of at most 2^(i/8) us that the bucket before does not count.

    Attributes:
        max_us: Longest latency [us].
        sum_us: Sum of all latencies [us].
    """

    def __init__(self):
        self._counts = [0] * _N_BUCKETS
        self.max_us = 0
        self.sum_us = 0

    @property
    def n(self) -> int:
        """The number of latencies."""
        return sum(self._counts)

    def add(self, value_us: int) -> None:
        """Counts one latency, a whole number >= 0 [us]. It takes a few hundred ns."""
        self._counts[_BUCKETS[value_us] if value_us < _N_TABLE else _bucket(value_us)] += 1
        self.sum_us += value_us
        if value_us > self.max_us:
            self.max_us = value_us

    def counts(self) -> list[int]:
        """Returns the number of latencies in each bucket."""
        return list(self._counts)

    def copy(self) -> "Histogram":
        """Returns a copy that further latencies do not change."""
        copied = Histogram()
        copied._counts = self.counts()
        copied.max_us = self.max_us
        copied.sum_us = self.sum_us
        return copied

    def percentile_us(self, p: float) -> float:
        """Returns an upper bound of the p-quantile, at most 9 % too high [us]; 0 where n is 0."""
        rank = nearest_rank(self.n, p)
        n_seen = 0
        for index, count in enumerate(self._counts):
            n_seen += count
            if count and n_seen >= rank:
                return min(2 ** (index / BUCKETS_PER_OCTAVE), self.max_us)
        return 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns n, mean_us, max_us, p50_us, p99_us, p999_us."""
        n = self.n
        return {
            "n": n,
            "mean_us": self.sum_us / n if n else 0.0,
            "max_us": self.max_us,
            "p50_us": self.percentile_us(0.5),
            "p99_us": self.percentile_us(0.99),
            "p999_us": self.percentile_us(0.999),
        }
