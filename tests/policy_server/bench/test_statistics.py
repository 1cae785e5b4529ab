import numpy as np
import pytest

from policy_server.bench.statistics import confidence_ranks, percentile, summary


def test_nearest_rank_by_hand():
    samples = np.arange(1, 101) * 10.0
    by_share = {0.5: 500, 0.99: 990, 0.999: 1000, 1.0: 1000, 0.001: 10}
    assert {p: percentile(samples, p) for p in by_share} == by_share
    assert percentile(np.array([7.0]), 0.5) == 7.0
    assert percentile(np.array([1.0, 2.0, 3.0]), 0.5) == 2.0


def test_ranks_of_the_median_are_the_sign_tests():
    """Tables of the sign test at 95 %: n = 10 gives ranks 2 and 9, n = 20 gives 6 and 15."""
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
    n_runs = 400
    covered = 0
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
    assert low < 0.99 * 262_742 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(262_742 * 0.0099), rel=0.02)


def test_missing_answers_are_the_slowest():
    """8 answers and 2 losses: the median is the 5th, and p90 the 9th, which is lost."""
    said = summary(np.arange(1.0, 9.0), n_missing=2)
    expected = {"n": 10, "n_missing": 2, "p50": 5.0, "p90": None, "max": 8.0}
    assert expected.items() <= said.items()
    assert said["p50_ci"] == [2.0, None]  # the sign test's ranks 2 and 9
    nothing = summary(np.array([]), n_missing=3)
    assert nothing["n"] == 3 and nothing["p50"] is None and nothing["max"] is None
    assert summary(np.array([1.0]))["n"] == 1 and "n_missing" not in summary(np.array([1.0]))
