import numpy as np
import pytest

from policy_server.bench.statistics import percentile
from policy_server.observe.histogram import Histogram


def test_histogram_is_at_most_a_bucket_too_high():
    samples = (
        np.random.default_rng(0).lognormal(7, 1, size=5000).astype(int)
    )  # whole, some beyond the table
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
