"""Measuring latency: a policy in this process, and the round trip to a running server."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from policy_server.client import PolicyClient
from policy_server.clock import quiet
from policy_server.stats import summary


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
    endpoint: str, n: int = 20_000, obs: np.ndarray | None = None, warmup: int = 200, timeout_s: float = 1.0
) -> dict[str, Any]:
    """Returns the latency of a server as one client sees it, which asks again as soon as it is answered.

    Args:
        endpoint: Of a running server.
        n: Queries to time.
        obs: (obs_dim,) to send; None for one inside the manifest's limits.
        warmup: Queries before the first timed one.
        timeout_s: How long to wait for each answer [s].

    Returns:
        n, policy, bundle_hash, provider, summaries roundtrip_us, queue_us, inference_us, server_us and
        network_us (round trip less the server's share), and the raw samples_us of the round trips, (n,).

    Raises:
        PolicyTimeout: No server, or an answer took longer than `timeout_s`.
        PolicyError: The server refused the obs.
    """
    names = ("roundtrip_us", "queue_us", "inference_us", "server_us")
    samples = np.zeros((len(names), n + warmup))
    with PolicyClient(endpoint, timeout_s) as client:
        hello = client.hello()
        obs = _middle_obs(client) if obs is None else obs
        with quiet():
            for i in range(n + warmup):
                client.act(obs)
                times = client.last_times
                samples[:, i] = [times[name] for name in names]
    samples = samples[:, warmup:]
    result = {name: summary(row) for name, row in zip(names, samples, strict=True)}
    about = {"n": n, "policy": hello["manifest"]["name"], "bundle_hash": hello["bundle_hash"]}
    network_us = summary(samples[0] - samples[3])
    return {**about, "provider": hello["provider"], **result, "network_us": network_us, "samples_us": samples[0]}


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Returns one line for each number that two results have in common: before, after and their ratio.

    Args:
        before: JSON of an earlier measurement.
        after: JSON of a later one.
    """
    old, new = _numbers(before), _numbers(after)
    common = [name for name in old if name in new]
    if not common:
        return "nothing to compare: the two files have no number in common"
    width = max(map(len, common))
    lines = [f"{'':{width}}  {'before':>12}  {'after':>12}  after/before"]
    for name in common:
        ratio = f"{new[name] / old[name]:.3f}" if old[name] else "-"
        lines.append(f"{name:{width}}  {old[name]:12.6g}  {new[name]:12.6g}  {ratio:>12}")
    return "\n".join(lines)


def host() -> dict[str, Any]:
    """Returns what a latency depends on: cpu, n_cores, kernel, python and library versions."""
    versions = {name: _version(name) for name in ("numpy", "pyzmq", "onnxruntime-gpu", "onnxruntime")}
    return {
        "cpu": _cpu_model(),
        "n_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _middle_obs(client: PolicyClient) -> np.ndarray:
    """Returns an obs in the middle of its limits, 0 where there are none, (obs_dim,) float32."""
    low = np.array([value for field in client.manifest.obs for value in field.low])
    high = np.array([value for field in client.manifest.obs for value in field.high])
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, low, 0) / 2 + np.where(bounded, high, 0) / 2
    return np.clip(middle, low, high).astype(np.float32)


def _numbers(value: Any, prefix: str = "") -> dict[str, float]:
    """Returns every number of nested dictionaries, by dotted name."""
    if isinstance(value, dict):
        parts = [_numbers(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
        return {name: number for part in parts for name, number in part.items()}
    return {prefix: float(value)} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
