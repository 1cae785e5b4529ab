"""Part `requests`: very many requests, each accounted for, while the server's memory is watched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from policy_server.bench.statistics import summary
from policy_server.contract.bundle import Bundle
from soaking import ledger
from soaking.asking import Asker, closed_loop, latencies_of
from soaking.serving import Served, serving

N_SAMPLES = 200  # of the memory
FLAT_MIB = 8.0  # growth between 10 % and the end that still counts as flat


class Watch:
    """Samples the server's memory at equal shares of the requests.

    Attributes:
        samples: (requests sent, time [s], RSS [MiB], open descriptors) of each sample.

    Args:
        server: The server to watch.
        n: How many requests are sent in all.
    """

    def __init__(self, server: Served, n: int):
        self.samples: list[tuple[int, float, float, int]] = []
        self._server = server
        self._n = n
        self._every = max(n // N_SAMPLES, 1)
        self._start_ns = time.monotonic_ns()
        self._printed_ns = self._start_ns

    def more(self, n_sent: int) -> bool:
        """Returns whether to send another request."""
        if n_sent % self._every == 0 or n_sent == self._n:
            self._sample(n_sent)
        return n_sent < self._n

    def _sample(self, n_sent: int) -> None:
        if self.samples and self.samples[-1][0] == n_sent:
            return
        now_ns = time.monotonic_ns()
        elapsed_s = (now_ns - self._start_ns) * 1e-9
        rss_mib = self._server.rss_mib()
        self.samples.append((n_sent, elapsed_s, rss_mib, self._server.n_files()))
        if now_ns - self._printed_ns > 5e9:
            self._printed_ns = now_ns
            progress = f"{n_sent} of {self._n}, {n_sent / elapsed_s:.0f}/s"
            print(f"requests: {progress}, RSS {rss_mib:.1f} MiB", flush=True)


def run(
    bundle: Bundle, folder: Path, n: int, n_clients: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns (result, arrays): rss as `growth` takes it, latency_us (n,).

    Args:
        bundle: The bundle to serve.
        folder: Where the log goes.
        n: How many requests.
        n_clients: How many clients send them.
    """
    rows = bundle.golden()["obs"]
    with serving(bundle.path, folder) as server:
        askers = [Asker(server.endpoint, rows) for _ in range(n_clients)]
        watch = Watch(server, n)
        start_ns = time.monotonic_ns()
        closed_loop(askers, watch.more)
        elapsed_s = (time.monotonic_ns() - start_ns) * 1e-9
        alive = server.process.alive
    verdict = ledger.total([asker.ledger for asker in askers])
    samples = np.array(watch.samples)
    latencies_us = latencies_of(askers)
    memory = growth(samples)
    result = {
        "n_clients": n_clients,
        **verdict,
        **memory,
        "elapsed_s": elapsed_s,
        "requests_hz": verdict["n_sent"] / elapsed_s,
        "latency_us": summary(latencies_us),
        "alive": alive,
        "met": alive and ledger.clean(verdict) and memory["growth_mib"] <= FLAT_MIB,
    }
    return result, {"rss": samples, "latency_us": latencies_us}


def growth(samples: np.ndarray) -> dict[str, float]:
    """Returns the memory [MiB] and the descriptors at 10 % and at the end, and the growth between.

    Args:
        samples: (k, 4): requests sent, time [s], RSS [MiB], open descriptors.
    """
    early = samples[np.searchsorted(samples[:, 0], 0.1 * samples[-1, 0])]
    return {
        "rss_10_mib": float(early[2]),
        "rss_end_mib": float(samples[-1, 2]),
        "rss_max_mib": float(samples[:, 2].max()),
        "growth_mib": float(samples[-1, 2] - early[2]),
        "n_files_10": int(early[3]),
        "n_files_end": int(samples[-1, 3]),
    }
