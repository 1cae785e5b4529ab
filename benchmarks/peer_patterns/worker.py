"""Runs clients of one pattern.

    python -m peer_patterns.worker PATTERN ENDPOINT OBS_FILE N_CLIENTS

Each client has a thread and a connection. The process reads one request a line (JSON) and answers
one line each. Its first line says that all clients are connected and warm. It also runs in openpi's
environment, so it imports only NumPy and `policy_server.contract.clock`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from peer_patterns import OURS
from policy_server.contract.clock import quiet


def actions(client: Any, obs: np.ndarray) -> list:
    """Returns the action for each row of obs (n, obs_dim) as lists (n, horizon, act_dim)."""
    return [client.numbers(client.act(row)).tolist() for row in obs]


def timed(client: Any, obs: np.ndarray, n: int, warmup: int) -> list[int]:
    """Returns the round trips of requests that are sent one after the other [ns].

    Args:
        client: The client to measure.
        obs: Observations (k, obs_dim) that it sends in turn.
        n: How many round trips to return.
        warmup: How many requests to send before those.
    """
    times_ns = np.zeros(n + warmup, dtype=np.int64)
    rows = list(obs)
    for i in range(n + warmup):
        row = rows[i % len(rows)]
        start_ns = time.perf_counter_ns()
        client.act(row)
        times_ns[i] = time.perf_counter_ns() - start_ns
    return times_ns[warmup:].tolist()


def load(client: Any, obs: np.ndarray, start_ns: int, seconds: float) -> list[int]:
    """Returns the round trips that end within the time [ns].

    Args:
        client: The client to measure.
        obs: Observations (k, obs_dim) that it sends in turn.
        start_ns: When to start (monotonic) [ns].
        seconds: How long to measure [s].
    """
    rows = list(obs)
    times_ns = []
    i = 0
    end_ns = start_ns + int(seconds * 1e9)
    time.sleep(max(start_ns - time.monotonic_ns(), 0) * 1e-9)
    while (begin_ns := time.monotonic_ns()) < end_ns:
        client.act(rows[i % len(rows)])
        done_ns = time.monotonic_ns()
        if done_ns <= end_ns:
            times_ns.append(done_ns - begin_ns)
        i += 1
    return times_ns


def answer(clients: list[Any], obs: np.ndarray, request: dict[str, Any]) -> list:
    """Returns the answer to one request.

    Args:
        clients: The clients of this process.
        obs: Observations (k, obs_dim) that they send.
        request: {op: actions}, {op: timed, n, warmup} or {op: load, start_ns, seconds}.
    """
    op = request.pop("op")
    if op == "actions":
        return actions(clients[0], obs)
    with quiet():
        if op == "timed":
            return timed(clients[0], obs, **request)
        with ThreadPoolExecutor(len(clients)) as pool:
            parts = list(pool.map(lambda client: load(client, obs, **request), clients))
    return [value for part in parts for value in part]


def main(pattern: str, endpoint: str, obs_file: str, n_clients: str) -> None:
    """Answers requests until stdin ends."""
    module = importlib.import_module(f"peer_patterns.{'ours' if pattern in OURS else pattern}")
    obs = np.load(obs_file)
    clients = [module.Client(endpoint) for _ in range(int(n_clients))]
    if len(clients) > 1:
        for client in clients:
            timed(client, obs, n=20, warmup=0)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(clients, obs, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
