"""The histogram against exact percentiles."""

import numpy as np
import pytest

from policy_server.bench.statistics import percentile
from policy_server.observe.histogram import Histogram, nearest_rank


def test_histogram_is_at_most_a_bucket_too_high():
    # Whole numbers, some of them beyond the table.
    samples = np.random.default_rng(0).lognormal(7, 1, size=5000).astype(int)
    histogram = Histogram()
    for value in samples.tolist():
        histogram.add(value)
    ordered = np.sort(samples)
    for p in (0.5, 0.99, 0.999):
        exact = percentile(ordered, p)
        assert exact <= histogram.percentile_us(p) <= exact * 2 ** (1 / 8) * 1.0001
    assert (histogram.n, histogram.max_us) == (5000, ordered[-1])
    assert histogram.to_json()["mean_us"] == pytest.approx(samples.mean())


def test_histogram_at_its_ends():
    histogram = Histogram()
    assert histogram.to_json()["p99_us"] == 0
    for value in (0, 1, 10**30):
        histogram.add(value)
    assert histogram.percentile_us(0.5) == 1.0


def test_a_copy_does_not_change():
    histogram = Histogram()
    histogram.add(5)
    copied = histogram.copy()
    histogram.add(7)
    assert (copied.n, copied.max_us, copied.sum_us) == (1, 5, 5)
    assert (histogram.n, histogram.max_us, histogram.sum_us) == (2, 7, 12)


@pytest.mark.parametrize(("n", "p", "rank"), [(1, 0.5, 1), (100, 0.99, 99), (10, 0.001, 1)])
def test_nearest_rank(n, p, rank):
    assert nearest_rank(n, p) == rank
