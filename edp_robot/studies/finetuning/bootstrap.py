"""Aggregates over tasks and seeds with stratified bootstrap intervals (Agarwal et al. 2021).

The definitions are those of the package rliable, which draws in pandas and statsmodels. Scores are
given as an array of runs for each task; tasks may have different numbers of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from edp_robot.studies.tables import CONFIDENCE

N_RESAMPLES = 5_000
SEED = 0
CUT = 0.25  # of the runs, at either end
Scores = Sequence[np.ndarray]  # of each task, its runs (n_runs,)


class Estimate(NamedTuple):
    """A value and its interval; the ends are NaN where no task has two runs."""

    value: float
    low: float
    high: float


def iqm(scores: Scores) -> Estimate:
    """Returns the interquartile mean of the runs of all tasks, pooled."""
    pooled = np.concatenate([resampled(runs, i) for i, runs in enumerate(scores)], axis=1)
    value = stats.trim_mean(np.concatenate(scores), CUT)
    return _estimate(value, stats.trim_mean(pooled, CUT, axis=1), scores)


def mean(scores: Scores) -> Estimate:
    """Returns the mean over tasks of the mean of their runs."""
    drawn = np.mean([resampled(runs, i).mean(1) for i, runs in enumerate(scores)], axis=0)
    return _estimate(float(np.mean([runs.mean() for runs in scores])), drawn, scores)


def improvement(scores: Scores, others: Scores) -> Estimate:
    """Returns the probability that a run scores higher than one of the others on the same task.

    It is the mean over tasks of P(X > Y) + P(X = Y) / 2, of a run X and one of the others Y.

    Args:
        scores: The runs of each task.
        others: Those of the others, of the same tasks in the same order.
    """
    pairs = list(zip(scores, others, strict=True))
    value = float(np.mean([_above(x[None], y[None])[0] for x, y in pairs]))
    # The second half of the generators is the others', so that both are drawn independently.
    drawn = [
        _above(resampled(x, i), resampled(y, len(pairs) + i)) for i, (x, y) in enumerate(pairs)
    ]
    return _estimate(value, np.mean(drawn, axis=0), [*scores, *others])


def resampled(runs: np.ndarray, stream: int) -> np.ndarray:
    """Returns bootstrap samples (N_RESAMPLES, n) of runs (n,), with replacement.

    Args:
        runs: The runs of one task.
        stream: Number of the random generator. Tasks need different ones.
    """
    rng = np.random.default_rng((SEED, stream))
    return runs[rng.integers(len(runs), size=(N_RESAMPLES, len(runs)))]


def _above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the share of pairs (x, y) with x above y, ties half; x (m, n), y (m, k) -> (m,)."""
    return ((np.sign(x[:, :, None] - y[:, None, :]) + 1) / 2).mean((1, 2))


def _estimate(value: float, drawn: np.ndarray, scores: Scores) -> Estimate:
    """Returns the value with the percentiles of the resampled ones."""
    if max(map(len, scores)) < 2:
        return Estimate(float(value), float("nan"), float("nan"))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high))
