"""A robot: asks at a fixed rate with a deadline, and knows what it should be answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from policy_server.bench.statistics import summary
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.control.client import PolicyClient
from policy_server.control.clock import wait_until
from policy_server.control.local import LocalPolicy

SAME = 1e-5  # rounding: a batch with a stranger's observation is computed by another kernel
N_EXACT = 20


class Segment(NamedTuple):
    """What the robot saw for a while.

    Attributes:
        latencies_us: (n,) from the tick to the answer, infinite where it missed its deadline [us].
        n_errors: Misses that were errors, not silence.
        n_wrong: Answers that are not the policy's.
    """

    latencies_us: np.ndarray
    n_errors: int
    n_wrong: int


class Robot:
    """The good client.

    Args:
        endpoint: Of the server.
        local: The served policy, here.
        rows: (n, obs_dim), what it sees in turn.
        rate_hz: Ticks a second [1/s].
        deadline_s: Of each answer, from the tick on [s].
    """

    def __init__(
        self, endpoint: str, local: LocalPolicy, rows: np.ndarray, rate_hz: float, deadline_s: float
    ):
        self._client, self._local, self._rows = PolicyClient(endpoint, timeout_s=10), local, rows
        self._period_ns, self._deadline_ns = int(1e9 / rate_hz), int(deadline_s * 1e9)
        self._seed = 0
        self._client.hello()

    def drive(self, go_on: Callable[[int], bool]) -> Segment:
        """Asks at each tick, once at least, while `go_on(time since the start [ns])`."""
        self._reset()
        latencies_us, actions, n_errors, i = [], [], 0, 0
        start_ns = time.monotonic_ns()
        while i == 0 or go_on(i * self._period_ns):
            wait_until(start_ns + i * self._period_ns)
            action, failed = self._act(i)
            latencies_us.append((time.monotonic_ns() - start_ns - i * self._period_ns) / 1000)
            if action is None or latencies_us[-1] * 1000 > self._deadline_ns:
                latencies_us[-1] = float("inf")
            n_errors += failed
            actions.append(action)
            i += 1
        return Segment(np.array(latencies_us), n_errors, self._n_wrong(actions))

    def exact(self) -> bool:
        """Returns whether N_EXACT answers in a row are the policy's, bit for bit."""
        self._reset()
        rows = [self._rows[i % len(self._rows)] for i in range(N_EXACT)]
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

    def _act(self, i: int) -> tuple[np.ndarray | None, bool]:
        """Returns (action, False), or (None, whether an error came)."""
        try:
            return self._client.act(
                self._rows[i % len(self._rows)], self._deadline_ns * 1e-9
            ).copy(), False
        except PolicyTimeout:
            return None, False
        except PolicyError:
            return None, True

    def _n_wrong(self, actions: list[np.ndarray | None]) -> int:
        """Compares up to the first miss: whether the server drew noise for that one is not known here."""
        known = next((i for i, action in enumerate(actions) if action is None), len(actions))
        n_wrong = 0
        for i, action in enumerate(actions[:known]):
            expected = self._local.act(self._rows[i % len(self._rows)])
            n_wrong += action is None or not np.allclose(action, expected, rtol=0, atol=SAME)
        return n_wrong


def pooled(segments: list[Segment]) -> dict:
    """Returns n, percentiles [us] as in `policy_server.bench.statistics.summary`, misses, errors and wrong answers."""
    latencies_us = np.concatenate([segment.latencies_us for segment in segments])
    finite = latencies_us[np.isfinite(latencies_us)]
    return {
        **summary(finite, len(latencies_us) - len(finite)),
        "n_missed": len(latencies_us) - len(finite),
        "n_errors": sum(segment.n_errors for segment in segments),
        "n_wrong": sum(segment.n_wrong for segment in segments),
    }
