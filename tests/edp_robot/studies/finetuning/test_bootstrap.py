"""Aggregates by hand, and intervals by their closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from edp_robot.studies.finetuning.bootstrap import improvement, iqm, mean, resampled


def test_the_iqm_pools_runs_and_cuts_a_quarter_at_either_end():
    scores = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 100.0])]
    assert iqm(scores).value == (2 + 3 + 4 + 5) / 4
    assert iqm([np.array([1.0, 2.0, 9.0])]).value == 4  # a quarter of three runs is none


def test_the_mean_weighs_tasks_equally():
    assert mean([np.array([1.0, 3.0]), np.array([8.0])]).value == 5


def test_the_probability_of_improvement_by_hand():
    x = [np.array([1.0, 3.0]), np.array([0.0, 0.0])]
    y = [np.array([2.0, 3.0]), np.array([0.0, 0.0, 0.0])]
    # Task one: 1 < 2, 1 < 3, 3 > 2, 3 = 3: 1.5 of 4. Task two: ties alone.
    assert improvement(x, y).value == (1.5 / 4 + 0.5) / 2
    assert improvement(x, y).value + improvement(y, x).value == 1
    assert improvement([np.array([2.0, 3.0])], [np.array([0.0, 1.0])]) == (1, 1, 1)


def test_the_probability_of_improvement_is_mann_whitneys():
    rng = np.random.default_rng(3)
    x = rng.integers(0, 5, 7).astype(float)
    y = rng.integers(0, 5, 9).astype(float)
    u = stats.mannwhitneyu(x, y).statistic
    assert improvement([x], [y]).value == pytest.approx(u / 63)


def test_the_interval_of_two_runs_is_their_span():
    """The mean of a resample is the lower run, the upper, or the middle: 1/4, 1/4, 1/2."""
    assert mean([np.array([0.2, 0.6])]) == pytest.approx((0.4, 0.2, 0.6))


def test_the_interval_of_a_share_is_the_binomials():
    """Resampling 60 runs of which 15 are 1 draws from Binomial(60, .25)."""
    runs = np.repeat([0.0, 1.0], [45, 15])
    found = mean([runs])
    wanted = stats.binom.ppf([0.025, 0.975], 60, 0.25) / 60
    assert np.abs(np.array(found[1:]) - wanted).max() <= 1 / 60 + 1e-9


def test_the_interval_is_scipys():
    rng = np.random.default_rng(0)
    runs = rng.normal(size=40)
    wanted = stats.bootstrap(
        (runs,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", rng=1
    ).confidence_interval
    assert iqm([runs])[1:] == pytest.approx(wanted, abs=0.03)


def test_strata_are_resampled_apart():
    """A task whose runs are equal adds nothing to the spread, as many as they are."""
    noisy = np.array([0.0, 1.0])
    assert mean([noisy, np.full(10, 0.5)])[1:] == pytest.approx((0.25, 0.75))
    assert not np.array_equal(resampled(np.arange(9.0), 0), resampled(np.arange(9.0), 1))


def test_one_run_has_no_interval():
    assert math.isnan(iqm([np.array([0.5]), np.array([0.7])]).low)
    assert not math.isnan(iqm([np.array([0.5]), np.array([0.7, 0.8])]).low)
