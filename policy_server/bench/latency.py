"""Measuring latency: a policy in this process, and the round trip to a running server."""

import time
from typing import Any, Protocol

import numpy as np

from policy_server.bench.compare import compare
from policy_server.bench.host import host
from policy_server.bench.statistics import summary
from policy_server.contract.field import limits
from policy_server.contract.manifest import Manifest
from policy_server.control.client import PolicyClient
from policy_server.control.clock import quiet
from policy_server.transport.keys import ClientKeys

__all__ = ["ActsOnBatches", "bench_backend", "bench_roundtrip", "compare", "host", "middle_obs"]


class ActsOnBatches(Protocol):
    """A `Backend` or `OnnxPolicy`."""

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns action (n, horizon, act_dim)."""
        ...


def bench_backend(
    policy: ActsOnBatches, obs: np.ndarray, noise: np.ndarray, n: int = 2000, warmup: int = 100
) -> np.ndarray:
    """Returns the time of each of `n` queries one after the other, (n,) [us].

    Args:
        policy: What to time.
        obs: (n_rows, obs_dim), given whole to every query.
        noise: (n_rows, latent_dim).
        n: Queries to time.
        warmup: Queries before the first timed one.
    """
    times_ns = np.zeros(n + warmup, dtype=np.int64)
    with quiet():
        for i in range(n + warmup):
            start = time.perf_counter_ns()
            policy.act(obs, noise)
            times_ns[i] = time.perf_counter_ns() - start
    return times_ns[warmup:] / 1000


def bench_roundtrip(
    endpoint: str,
    n: int = 20_000,
    obs: np.ndarray | None = None,
    warmup: int = 200,
    timeout_s: float = 1.0,
    keys: ClientKeys | None = None,
) -> dict[str, Any]:
    """Returns the latency of a server as one client sees it, which asks again as soon as it is answered.

    Args:
        endpoint: Of a running server.
        n: Queries to time.
        obs: (obs_dim,) to send; None for one inside the manifest's limits.
        warmup: Queries before the first timed one.
        timeout_s: How long to wait for each answer [s].
        keys: For a server with keys.

    Returns:
        n, policy, bundle_hash, provider, summaries roundtrip_us, queue_us, inference_us, server_us and
        network_us (round trip less the server's share), and the raw samples_us of the round trips, (n,).

    Raises:
        PolicyTimeout: No server, or an answer took longer than `timeout_s`.
        PolicyError: The server refused the obs.
    """
    names = ("roundtrip_us", "queue_us", "inference_us", "server_us")
    samples = np.zeros((len(names), n + warmup))
    with PolicyClient(endpoint, timeout_s, keys) as client:
        hello = client.hello()
        obs = middle_obs(client.manifest) if obs is None else obs
        with quiet():
            for i in range(n + warmup):
                client.act(obs)
                times = client.last_times
                samples[:, i] = [times[name] for name in names]
    samples = samples[:, warmup:]
    result = {name: summary(row) for name, row in zip(names, samples, strict=True)}
    about = {"n": n, "policy": hello["manifest"]["name"], "bundle_hash": hello["bundle_hash"]}
    network_us = summary(samples[0] - samples[3])
    return {
        **about,
        "provider": hello["provider"],
        **result,
        "network_us": network_us,
        "samples_us": samples[0],
    }


def middle_obs(manifest: Manifest) -> np.ndarray:
    """Returns an obs in the middle of its limits, 0 where there are none, (obs_dim,) float32.

    Args:
        manifest: Of the policy that is asked.
    """
    low, high = limits(manifest.obs)
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, low, 0) / 2 + np.where(bounded, high, 0) / 2
    return np.clip(middle, low, high).astype(np.float32)
