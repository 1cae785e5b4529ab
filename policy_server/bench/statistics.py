"""Latency statistics: percentiles with their sample size and confidence interval."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from policy_server.observe.histogram import nearest_rank

PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))


def percentile(sorted_samples: np.ndarray, p: float) -> float:
    """Returns the smallest sample that at least a share `p` of all samples do not exceed (nearest rank).

    Args:
        sorted_samples: (n,) in rising order, n >= 1.
        p: In (0, 1].
    """
    n = len(sorted_samples)
    return float(sorted_samples[nearest_rank(n, p) - 1])


def confidence_ranks(n: int, p: float, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """Returns ranks (low, high), from 1, whose order statistics enclose the p-quantile at least this often.

    Distribution free: the number of samples below the quantile is Binomial(n, p), so that
    P(X_low <= q) = P(B >= low) and P(X_high >= q) = P(B <= high - 1). Each side gets half of the error.
    None where no sample is extreme enough for that side: n is too small.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    log_pmf = (
        log_factorial[n]
        - log_factorial
        - log_factorial[::-1]
        + k * math.log(p)
        + (n - k) * math.log1p(-p)
    )
    below = np.cumsum(np.exp(log_pmf))  # below[k] = P(B <= k)
    tail = (1 - confidence) / 2
    low = int(
        np.searchsorted(below, tail, side="right")
    )  # largest rank with P(B <= rank - 1) <= tail
    high = (
        int(np.searchsorted(below, 1 - tail)) + 1
    )  # smallest rank with P(B <= rank - 1) >= 1 - tail
    return (low if low >= 1 else None), (high if high <= n else None)


def wilson(n_hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval (low, high) of a probability, of which `n_hits` of `n` trials were seen.

    Unlike the normal approximation it stays inside [0, 1] and says something where there was no hit: 0 of n
    trials leave up to z^2 / (n + z^2).

    Raises:
        ValueError: n < 1, or n_hits outside [0, n].
    """
    if n < 1 or not 0 <= n_hits <= n:
        raise ValueError(
            f"{n_hits} hits of {n} trials: expected 0 <= hits <= trials and at least one trial"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = n_hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (0.0 if n_hits == 0 else centre - half), (1.0 if n_hits == n else centre + half)


def summary(samples_us: np.ndarray, n_missing: int = 0) -> dict[str, Any]:
    """Returns n, max, mean, p50, p90, p99, p999 [us], and 95 % intervals p50_ci, ..., p999_ci as [low, high].

    A bound is None where the sample is too small to give it (p99 needs n >= 368, p999 n >= 3688).

    Args:
        samples_us: (n,) [us]; for n = 0 only {"n": 0} is returned.
        n_missing: How many more there were that have no finite value: they count as larger than every sample, so
            that whoever drops his slowest cannot look fast. n includes them, n_missing tells them, a percentile
            among them is None; max and mean are of the others.
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
        result.update(max=float(finite[-1]), mean=float(finite.mean()))
    for name, p in PERCENTILES:
        result[name] = _finite(percentile(samples, p))
        result[f"{name}_ci"] = [
            None if k is None else _finite(samples[k - 1]) for k in confidence_ranks(n, p)
        ]
    return result


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
