"""Measures latency: a policy in this process, and the round trip to a running server."""

import time
from typing import Any, Protocol

import numpy as np

from policy_server.bench.statistics import summary
from policy_server.contract.field import limits
from policy_server.contract.manifest import Manifest
from policy_server.control.client import PolicyClient
from policy_server.control.clock import quiet
from policy_server.transport.keys import ClientKeys

_TIMES = ("roundtrip_us", "queue_us", "inference_us", "server_us")


class ActsOnBatches(Protocol):
    """A policy that answers batches of observations."""

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns actions (n, horizon, act_dim)."""
        ...


def bench_backend(
    policy: ActsOnBatches, obs: np.ndarray, noise: np.ndarray, n: int = 2000, warmup: int = 100
) -> np.ndarray:
    """Returns the time of each of `n` queries, one after the other, (n,) [us].

    Args:
        policy: Policy to time.
        obs: (n_rows, obs_dim). Every query gets all rows.
        noise: (n_rows, latent_dim).
        n: Number of queries to time.
        warmup: Number of queries before the first timed one.
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
    """Returns the latency of a server for one client that asks again when it is answered.

    The keys are n, policy, bundle_hash, provider, the summaries roundtrip_us, queue_us,
    inference_us, server_us and network_us (round trip less the server's share), and samples_us, the
    raw round trips (n,).

    Args:
        endpoint: Address of a running server.
        n: Number of queries to time.
        obs: (obs_dim,) to send. None: one inside the manifest's limits.
        warmup: Number of queries before the first timed one.
        timeout_s: How long to wait for each answer [s].
        keys: The client's keys, for a server with keys.

    Raises:
        PolicyTimeout: There is no server, or an answer takes longer than `timeout_s`.
        PolicyError: The server refuses the obs.
    """
    samples = np.zeros((len(_TIMES), n + warmup))
    with PolicyClient(endpoint, timeout_s, keys) as client:
        hello = client.hello()
        obs = middle_obs(client.manifest) if obs is None else obs
        with quiet():
            for i in range(n + warmup):
                client.act(obs)
                times = client.last_times
                samples[:, i] = [times[name] for name in _TIMES]
    by_name = dict(zip(_TIMES, samples[:, warmup:], strict=True))
    return {
        "n": n,
        "policy": hello["manifest"]["name"],
        "bundle_hash": hello["bundle_hash"],
        "provider": hello["provider"],
        **{name: summary(row) for name, row in by_name.items()},
        "network_us": summary(by_name["roundtrip_us"] - by_name["server_us"]),
        "samples_us": by_name["roundtrip_us"],
    }


def middle_obs(manifest: Manifest) -> np.ndarray:
    """Returns an obs in the middle of its limits, 0 where there are none, (obs_dim,) float32."""
    low, high = limits(manifest.obs)
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, low, 0) / 2 + np.where(bounded, high, 0) / 2
    return np.clip(middle, low, high).astype(np.float32)
