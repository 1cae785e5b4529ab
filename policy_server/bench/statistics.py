"""Latency statistics: percentiles with their sample size and confidence interval."""

import math
from typing import Any

import numpy as np

from policy_server.observe.histogram import nearest_rank

PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))


def percentile(sorted_samples: np.ndarray, p: float) -> float:
    """Returns the smallest sample that at least a share `p` of all samples does not exceed.

    Args:
        sorted_samples: (n,) in rising order, n >= 1.
        p: Share in (0, 1].
    """
    return float(sorted_samples[nearest_rank(len(sorted_samples), p) - 1])


def confidence_ranks(n: int, p: float, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """Returns ranks (low, high), from 1, of the samples that enclose the p-quantile.

    They enclose it with at least the given probability, whatever the distribution: the number B of
    samples below the quantile is Binomial(n, p), so P(X_low <= q) = P(B >= low) and
    P(X_high >= q) = P(B <= high - 1). Each side gets half of the error. A rank is None where n is
    too small: no sample is extreme enough for that side.

    Args:
        n: Number of samples.
        p: Share in (0, 1).
        confidence: Least probability that the ranks enclose the quantile.
    """
    from scipy.stats import binom

    tail = (1 - confidence) / 2
    low = int(binom.ppf(tail, n, p))
    high = int(binom.ppf(1 - tail, n, p)) + 1
    return (low if low >= 1 else None), (high if high <= n else None)


def summary(samples_us: np.ndarray, n_missing: int = 0) -> dict[str, Any]:
    """Returns n, max, mean and percentiles of latencies [us], with 95 % intervals.

    The percentiles are p50, p90, p99 and p999, the intervals p50_ci, ..., p999_ci as [low, high].
    A bound is None where the sample is too small: p99 needs n >= 368, p999 n >= 3688. Without any
    sample the result is {"n": 0}.

    Args:
        samples_us: (n,) latencies [us].
        n_missing: Number of further samples without a finite value. They count as larger than all
            others, so that dropping the slowest requests does not make a server look fast. n
            includes them, max and mean do not, and a percentile among them is None.
    """
    finite = np.sort(np.asarray(samples_us, dtype=np.float64))
    samples = np.concatenate([finite, np.full(n_missing, np.inf)])
    n = len(samples)
    if n == 0:
        return {"n": 0}
    result: dict[str, Any] = {"n": n, "max": None, "mean": None}
    if n_missing:
        result["n_missing"] = n_missing
    if len(finite):
        result["max"] = float(finite[-1])
        result["mean"] = float(finite.mean())
    for name, p in PERCENTILES:
        ranks = confidence_ranks(n, p)
        result[name] = _finite(percentile(samples, p))
        result[f"{name}_ci"] = [None if k is None else _finite(samples[k - 1]) for k in ranks]
    return result


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
