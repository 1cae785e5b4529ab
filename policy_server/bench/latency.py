"""Measures the latency of a policy in this process."""

import time
from collections.abc import Callable, Mapping

import numpy as np

from policy_server.contract.clock import quiet
from policy_server.contract.field import limits
from policy_server.contract.manifest import Manifest
from policy_server.contract.policy import BatchPolicy, RecurrentPolicy


def bench_backend(
    policy: BatchPolicy, obs: np.ndarray, noise: np.ndarray, n: int = 2000, warmup: int = 100
) -> np.ndarray:
    """Returns the time of each of `n` queries, one after the other, (n,) [us].

    Args:
        policy: Policy to time.
        obs: (n_rows, obs_dim). Every query gets all rows.
        noise: (n_rows, latent_dim).
        n: Number of queries to time.
        warmup: Number of queries before the first timed one.
    """
    return _timed(lambda: policy.act(obs, noise), n, warmup)


def bench_memory(
    policy: RecurrentPolicy, golden: Mapping[str, np.ndarray], n: int = 2000, warmup: int = 100
) -> np.ndarray:
    """Returns the time of each of `n` steps of a policy with memory, (n,) [us].

    Args:
        policy: Policy to time.
        golden: Its golden vectors. Every step gets the first one.
        n: Number of steps to time.
        warmup: Number of steps before the first timed one.
    """
    obs, noise, state = (golden[name][:1] for name in ("obs", "noise", "state"))
    return _timed(lambda: policy.step(obs, noise, state), n, warmup)


def _timed(call: Callable[[], object], n: int, warmup: int) -> np.ndarray:
    """Returns the times of `n` calls after `warmup` others, (n,) [us]."""
    times_ns = np.zeros(n + warmup, dtype=np.int64)
    with quiet():
        for i in range(n + warmup):
            start = time.perf_counter_ns()
            call()
            times_ns[i] = time.perf_counter_ns() - start
    return times_ns[warmup:] / 1000


def middle_obs(manifest: Manifest) -> np.ndarray:
    """Returns an obs in the middle of its limits, 0 where there are none, (obs_dim,) float32."""
    low, high = limits(manifest.obs)
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, low, 0) / 2 + np.where(bounded, high, 0) / 2
    return np.clip(middle, low, high).astype(np.float32)
