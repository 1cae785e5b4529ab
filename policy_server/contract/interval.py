"""How far a counted share may lie from the true probability."""

from __future__ import annotations

import math
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)


def wilson(n_hits: int, n: int) -> tuple[float, float]:
    """Returns the 95 % Wilson interval (low, high) of a probability.

    Unlike the normal approximation it stays inside [0, 1] and is not empty where there is no hit.

    Args:
        n_hits: Number of hits among the trials.
        n: Number of trials.

    Raises:
        ValueError: n < 1, or n_hits outside [0, n].
    """
    if n < 1 or not 0 <= n_hits <= n:
        raise ValueError(f"{n_hits} hits in {n} trials: there must be a trial, and 0 to {n} hits")
    share = n_hits / n
    centre = share + Z**2 / (2 * n)
    half_width = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low = (centre - half_width) / (1 + Z**2 / n)
    high = (centre + half_width) / (1 + Z**2 / n)
    return max(low, 0.0), min(high, 1.0)
