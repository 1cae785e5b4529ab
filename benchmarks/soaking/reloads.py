"""Part `reload`: two policies take turns while clients ask; each answer is checked against the one that it names."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from policy_server.bench.statistics import summary
from policy_server.contract import wire
from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.wire import Header, Kind
from policy_server.control.client import PolicyClient
from policy_server.runtime.base import load_backend
from policy_server.serving.noise import NoiseStream
from soaking import ledger
from soaking.asking import Asker, closed_loop
from soaking.serving import Served, serving, twin

SAME = 1e-5  # rounding: a batch is computed by another kernel than a single observation
GAP_S = 1.0  # between two answers of a client, at most


class Checker:
    """Computes what each client should have been answered.

    A session is its client's: the clients must be the server's first sessions, in order.

    Args:
        bundles: That may answer.
        rows: (n, obs_dim) that the clients send in turn.
        n_clients: How many ask.
    """

    def __init__(self, bundles: list[Bundle], rows: np.ndarray, n_clients: int):
        self._backends = {bytes.fromhex(bundle.hash)[:8]: load_backend(bundle, "cpu") for bundle in bundles}
        self._manifest, self._rows = bundles[0].manifest, rows
        self._noise = [NoiseStream(0, ordinal) for ordinal in range(n_clients)]
        self._answers: list[tuple[int, int, bytes, bytes]] = []
        self.policies: Counter[str] = Counter()

    def heard(self, client: int, header: Header, payload: bytes) -> None:
        """Keeps an answer."""
        if header.kind == Kind.ACT_REPLY:
            self._answers.append((client, header.sequence, header.policy, payload))

    def n_wrong(self) -> int:
        """Returns how many answers are not those of the policy that they name."""
        shape = (self._manifest.horizon, self._manifest.act_dim)
        noise, wrong = np.zeros((1, self._manifest.latent_dim), np.float32), 0
        for client, sequence, policy, payload in self._answers:
            self._noise[client].draw(noise)
            self.policies[policy.hex()] += 1
            backend = self._backends.get(policy)
            if backend is None or len(payload) != 4 * shape[0] * shape[1]:
                wrong += 1
                continue
            expected = backend.act(self._rows[None, sequence % len(self._rows)], noise)[0]
            wrong += not np.allclose(wire.floats(payload, shape), expected, rtol=0, atol=SAME)
        return wrong


def run(
    bundle: Bundle, folder: Path, n: int, n_clients: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns (result, arrays) of `n` reloads under `n_clients`: reload_s (n,), latency_us (k,), rss_mib (n + 1,)."""
    bundles, link = [bundle, twin(bundle, folder / "twin")], folder / "current"
    link.symlink_to(bundle.path)
    rows, done = bundle.golden()["obs"], threading.Event()
    checker = Checker(bundles, rows, n_clients)
    with serving(link, folder) as server:
        askers = _connected(server.endpoint, rows, n_clients, checker)
        load_thread = threading.Thread(
            target=closed_loop,
            args=(askers, lambda _: not done.is_set(), checker.heard),
            daemon=True,
        )
        load_thread.start()
        try:
            swaps = _swap(server, bundles, link, n)
        finally:
            done.set()
            load_thread.join()
        alive = server.alive
    verdict = ledger.total([asker.ledger for asker in askers])
    latencies_us = np.concatenate(
        [np.frombuffer(asker.latencies_us, np.float32) for asker in askers]
    )
    result = {
        "n_reloads": n,
        "n_clients": n_clients,
        "n_reloads_failed": len(swaps["errors"]),
        "errors": swaps["errors"][:10],
        **verdict,
        "n_wrong": checker.n_wrong(),
        "policies": dict(checker.policies),
        "longest_gap_s": max(asker.longest_gap_s for asker in askers),
        "latency_us": summary(latencies_us),
        "reload_s": {
            "p50": float(np.median(swaps["reload_s"])),
            "max": float(max(swaps["reload_s"])),
        },
        "rss_mib": [swaps["rss_mib"][0], swaps["rss_mib"][-1]],
        "alive": alive,
    }
    arrays = {
        "latency_us": latencies_us,
        "reload_s": np.array(swaps["reload_s"]),
        "rss_mib": np.array(swaps["rss_mib"]),
    }
    return {**result, "met": met(result)}, arrays


def met(result: dict[str, Any]) -> bool:
    """Returns whether no reload and no request failed, and all answers were right, of both policies."""
    faults = result["n_reloads_failed"] + result["n_wrong"]
    both = len(result["policies"]) == 2
    return (
        result["alive"]
        and ledger.clean(result)
        and not faults
        and both
        and result["longest_gap_s"] < GAP_S
    )


def _connected(endpoint: str, rows: np.ndarray, n: int, checker: Checker) -> list[Asker]:
    """Returns clients that have asked once, one after the other: their sessions have the ordinals 0, 1, ..."""
    askers = [Asker(endpoint, rows) for _ in range(n)]
    for index, asker in enumerate(askers):
        asker.send()
        found = asker.receive()
        if found is None:
            raise RuntimeError("the server does not answer")
        checker.heard(index, *found)
    return askers


def _swap(server: Served, bundles: list[Bundle], link: Path, n: int) -> dict[str, list]:
    """Reloads `n` times, another bundle each time; returns reload_s, errors and rss_mib (n + 1)."""
    seen: dict[str, list] = {"reload_s": [], "errors": [], "rss_mib": [server.rss_mib()]}
    with PolicyClient(server.endpoint, timeout_s=10) as client:
        for i in range(n):
            bundle = bundles[(i + 1) % 2]
            fresh = link.with_suffix(".new")
            fresh.symlink_to(bundle.path)
            os.replace(fresh, link)
            start_ns = time.monotonic_ns()
            try:
                swapped = client.reload()
                if swapped["bundle_hash"] != bundle.hash:
                    seen["errors"].append(
                        f"{swapped['bundle_hash'][:12]} instead of {bundle.hash[:12]}"
                    )
            except (PolicyError, PolicyTimeout) as error:
                seen["errors"].append(str(error))
            seen["reload_s"].append((time.monotonic_ns() - start_ns) * 1e-9)
            seen["rss_mib"].append(server.rss_mib())
            if (i + 1) % 10 == 0:
                print(
                    f"reload: {i + 1} of {n}, {len(seen['errors'])} failed, RSS {seen['rss_mib'][-1]:.1f} MiB",
                    flush=True,
                )
    return seen
