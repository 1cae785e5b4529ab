"""A robot that asks at a fixed rate with a deadline and computes what the answers should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from policy_server.bench.statistics import summary
from policy_server.contract.clock import wait_until
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy

SAME = 1e-5  # rounding: another kernel computes a batch with another client's obs
N_EXACT = 20


class Segment(NamedTuple):
    """What the robot saw during some ticks.

    Attributes:
        latencies_us: (n,) from the tick to the answer, infinite for a missed deadline [us].
        n_errors: Misses that were errors, not silence.
        n_wrong: Answers that differ from the policy's.
    """

    latencies_us: np.ndarray
    n_errors: int
    n_wrong: int


class Robot:
    """The good client.

    Args:
        endpoint: The server's endpoint.
        local: The served policy in this process.
        rows: Observations (n, obs_dim), which it sends in turn.
        rate_hz: Rate of its ticks [1/s].
        deadline_s: Deadline of each answer, counted from the tick [s].
    """

    def __init__(
        self, endpoint: str, local: LocalPolicy, rows: np.ndarray, rate_hz: float, deadline_s: float
    ):
        self._client = PolicyClient(endpoint, timeout_s=10)
        self._local = local
        self._rows = rows
        self._period_ns = int(1e9 / rate_hz)
        self._deadline_ns = int(deadline_s * 1e9)
        self._seed = 0
        self._client.hello()

    def drive(self, go_on: Callable[[int], bool]) -> Segment:
        """Asks at each tick, at least once, while `go_on(time since the start [ns])`."""
        self._reset()
        latencies_us = []
        actions = []
        n_errors = 0
        start_ns = time.monotonic_ns()
        while not actions or go_on(len(actions) * self._period_ns):
            tick_ns = start_ns + len(actions) * self._period_ns
            wait_until(tick_ns)
            action, failed = self._act(self._row(len(actions)))
            latency_ns = time.monotonic_ns() - tick_ns
            missed = action is None or latency_ns > self._deadline_ns
            latencies_us.append(float("inf") if missed else latency_ns / 1000)
            n_errors += failed
            actions.append(action)
        return Segment(np.array(latencies_us), n_errors, self._n_wrong(actions))

    def exact(self) -> bool:
        """Returns whether N_EXACT answers in a row are the policy's, bit for bit."""
        self._reset()
        rows = [self._row(i) for i in range(N_EXACT)]
        return all(
            self._client.act(row).tobytes() == self._local.act(row).tobytes() for row in rows
        )

    def close(self) -> None:
        """Closes its connection."""
        self._client.close()

    def _reset(self) -> None:
        self._seed += 1
        self._client.reset(self._seed)
        self._local.reset(self._seed)

    def _row(self, i: int) -> np.ndarray:
        return self._rows[i % len(self._rows)]

    def _act(self, row: np.ndarray) -> tuple[np.ndarray | None, bool]:
        """Returns (action, False), or (None, whether an error came)."""
        try:
            return self._client.act(row, self._deadline_ns * 1e-9).copy(), False
        except PolicyTimeout:
            return None, False
        except PolicyError:
            return None, True

    def _n_wrong(self, actions: list[np.ndarray | None]) -> int:
        """Returns how many answers differ from the policy's, up to the first miss.

        The comparison ends there: the client cannot know whether the server drew noise for it.
        """
        n_wrong = 0
        for i, action in enumerate(actions):
            if action is None:
                break
            expected = self._local.act(self._row(i))
            n_wrong += not np.allclose(action, expected, rtol=0, atol=SAME)
        return n_wrong


def pooled(segments: list[Segment]) -> dict:
    """Returns `summary` of all latencies [us] with the misses, errors and wrong answers."""
    latencies_us = np.concatenate([segment.latencies_us for segment in segments])
    finite = latencies_us[np.isfinite(latencies_us)]
    n_missed = len(latencies_us) - len(finite)
    return {
        **summary(finite, n_missed),
        "n_missed": n_missed,
        "n_errors": sum(segment.n_errors for segment in segments),
        "n_wrong": sum(segment.n_wrong for segment in segments),
    }
