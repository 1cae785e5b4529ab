import numpy as np
import pytest

from policy_server.bench.statistics import confidence_ranks, percentile, summary


def test_nearest_rank_by_hand():
    samples = np.arange(1, 101) * 10.0
    assert [percentile(samples, p) for p in (0.5, 0.99, 0.999, 1.0, 0.001)] == [
        500,
        990,
        1000,
        1000,
        10,
    ]
    assert percentile(np.array([7.0]), 0.5) == 7.0
    assert percentile(np.array([1.0, 2.0, 3.0]), 0.5) == 2.0


def test_ranks_of_the_median_are_the_sign_tests():
    """Tables of the sign test: n = 10 gives ranks 2 and 9 at 95 %, n = 20 gives 6 and 15; n = 5 has none."""
    assert confidence_ranks(10, 0.5) == (2, 9)
    assert confidence_ranks(20, 0.5) == (6, 15)
    assert confidence_ranks(5, 0.5) == (None, None)
    assert confidence_ranks(6, 0.5) == (1, 6)


def test_p99_needs_368_samples_for_an_upper_bound():
    """1 - 0.99^n >= 0.975 first holds at n = 368."""
    assert confidence_ranks(367, 0.99)[1] is None
    assert confidence_ranks(368, 0.99)[1] == 368
    assert confidence_ranks(3687, 0.999)[1] is None
    assert confidence_ranks(3688, 0.999)[1] == 3688


def test_the_interval_covers_the_true_percentile():
    rng = np.random.default_rng(0)
    n_runs, covered = 400, 0
    for _ in range(n_runs):
        low, high = summary(rng.exponential(size=1000))["p99_ci"]
        covered += low <= -np.log(0.01) <= high
    assert 0.93 <= covered / n_runs <= 0.99


def test_summary_of_unsorted_samples():
    result = summary(np.array([3.0, 1.0, 2.0]))
    assert (result["n"], result["p50"], result["max"], result["mean"]) == (3, 2.0, 3.0, 2.0)
    assert result["p99_ci"][1] is None
    assert summary(np.array([])) == {"n": 0}


def test_large_samples_stay_exact():
    low, high = confidence_ranks(262_742, 0.99)
    assert low < 0.99 * 262_742 < high and high - low == pytest.approx(
        2 * 1.96 * np.sqrt(262_742 * 0.0099), rel=0.02
    )
