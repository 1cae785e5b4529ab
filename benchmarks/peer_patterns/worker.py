"""Clients of one pattern in a process of their own.

`python -m peer_patterns.worker PATTERN ENDPOINT OBS_FILE N_CLIENTS`, of which each has a thread and a connection.
Reads a request a line (JSON), answers a line each; the first line says that all clients are connected and warm.
It runs in openpi's environment too, so it imports nothing but NumPy and `policy_server.control.clock`.
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
from policy_server.control.clock import quiet


def actions(client: Any, obs: np.ndarray) -> list:
    """Returns the action for each row of obs (n, obs_dim), as nested lists (n, horizon, act_dim)."""
    return [client.numbers(client.act(row)).tolist() for row in obs]


def timed(client: Any, obs: np.ndarray, n: int, warmup: int) -> list[int]:
    """Returns the round trips of `n` requests, each sent when the one before is answered [ns]."""
    times_ns = np.zeros(n + warmup, dtype=np.int64)
    rows = list(obs)
    for i in range(n + warmup):
        row = rows[i % len(rows)]
        start_ns = time.perf_counter_ns()
        client.act(row)
        times_ns[i] = time.perf_counter_ns() - start_ns
    return times_ns[warmup:].tolist()


def load(client: Any, obs: np.ndarray, start_ns: int, seconds: float) -> list[int]:
    """Returns the round trips that ended within `seconds` of `start_ns` (monotonic) [ns]."""
    rows, times_ns, i = list(obs), [], 0
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
    """Returns the answer to one request: {op: actions}, {op: timed, n, warmup} or {op: load, start_ns, seconds}."""
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
    """Answers requests until the input ends."""
    module = importlib.import_module(f"peer_patterns.{'ours' if pattern in OURS else pattern}")
    obs = np.load(obs_file)
    clients = [module.Client(endpoint) for _ in range(int(n_clients))]
    if len(clients) > 1:
        for client in clients:
            timed(client, obs, 20, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(clients, obs, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
