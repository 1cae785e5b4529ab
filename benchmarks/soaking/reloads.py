"""Part `reload`: two policies take turns while clients ask; every answer is checked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policy_server.bench.statistics import summary
from policy_server.contract import wire
from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.noise import NoiseStream
from policy_server.contract.wire import Header, Kind
from policy_server.control.client import PolicyClient
from policy_server.runtime.base import load_backend
from soaking import ledger
from soaking.asking import Asker, closed_loop, latencies_of
from soaking.serving import Served, serving, twin

SAME = 1e-5  # rounding: another kernel computes a batch than a single obs
GAP_S = 1.0  # longest time between two answers of a client [s]


class Checker:
    """Computes the answers that the clients should get.

    The clients must be the server's first sessions, in order: each session draws its own noise.

    Attributes:
        policies: Answers by the policy that they name, after `n_wrong`.

    Args:
        bundles: The bundles that may answer.
        rows: Observations (n, obs_dim) that the clients send in turn.
        n_clients: How many clients ask.
    """

    def __init__(self, bundles: list[Bundle], rows: np.ndarray, n_clients: int):
        self.policies: Counter[str] = Counter()
        self._backends = {
            bytes.fromhex(bundle.hash)[:8]: load_backend(bundle, "cpu") for bundle in bundles
        }
        self._manifest = bundles[0].manifest
        self._rows = rows
        self._noise = [NoiseStream(0, ordinal) for ordinal in range(n_clients)]
        self._answers: list[tuple[int, int, bytes, bytes]] = []

    def heard(self, client: int, header: Header, payload: bytes) -> None:
        """Keeps an answer for `n_wrong`.

        Args:
            client: Index of the client.
            header: The answer's header.
            payload: The answer's payload.
        """
        if header.kind == Kind.ACT_REPLY:
            self._answers.append((client, header.sequence, header.policy, payload))

    def n_wrong(self) -> int:
        """Returns how many answers differ from those of the policy that they name."""
        shape = (self._manifest.horizon, self._manifest.act_dim)
        noise = np.zeros((1, self._manifest.latent_dim), np.float32)
        wrong = 0
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
    """Returns (result, arrays): reload_s (n,), latency_us (k,), rss_mib (n + 1,).

    Args:
        bundle: The first of the two bundles; the second is its `twin`.
        folder: Where the second bundle, the link and the log go.
        n: How many reloads.
        n_clients: How many clients ask meanwhile.
    """
    bundles = [bundle, twin(bundle, folder / "twin")]
    link = folder / "current"
    link.symlink_to(bundle.path)
    rows = bundle.golden()["obs"]
    checker = Checker(bundles, rows, n_clients)
    with serving(link, folder) as server:
        askers = _connected(server.endpoint, rows, n_clients, checker)
        with _under_load(askers, checker):
            swaps = _swap(server, bundles, link, n)
        alive = server.process.alive
    latencies_us = latencies_of(askers)
    reload_s = np.array(swaps["reload_s"])
    result = {
        "n_reloads": n,
        "n_clients": n_clients,
        "n_reloads_failed": len(swaps["errors"]),
        "errors": swaps["errors"][:10],
        **ledger.total([asker.ledger for asker in askers]),
        "n_wrong": checker.n_wrong(),
        "policies": dict(checker.policies),
        "longest_gap_s": max(asker.longest_gap_s for asker in askers),
        "latency_us": summary(latencies_us),
        "reload_s": {"p50": float(np.median(reload_s)), "max": float(reload_s.max())},
        "rss_mib": [swaps["rss_mib"][0], swaps["rss_mib"][-1]],
        "alive": alive,
    }
    rss_mib = np.array(swaps["rss_mib"])
    arrays = {"latency_us": latencies_us, "reload_s": reload_s, "rss_mib": rss_mib}
    return {**result, "met": met(result)}, arrays


def met(result: dict[str, Any]) -> bool:
    """Returns whether no reload or request failed and both policies gave only right answers."""
    faults = result["n_reloads_failed"] + result["n_wrong"]
    served = result["alive"] and ledger.clean(result) and len(result["policies"]) == 2
    return served and not faults and result["longest_gap_s"] < GAP_S


@contextlib.contextmanager
def _under_load(askers: list[Asker], checker: Checker) -> Iterator[None]:
    """Lets the clients ask in a thread until the block ends."""
    done = threading.Event()
    words = (askers, lambda _: not done.is_set(), checker.heard)
    load = threading.Thread(target=closed_loop, args=words, daemon=True)
    load.start()
    try:
        yield
    finally:
        done.set()
        load.join()


def _connected(endpoint: str, rows: np.ndarray, n: int, checker: Checker) -> list[Asker]:
    """Returns clients that have asked once in order, so that their sessions are 0, 1, ..."""
    askers = [Asker(endpoint, rows) for _ in range(n)]
    for index, asker in enumerate(askers):
        asker.send()
        found = asker.receive()
        if found is None:
            raise RuntimeError("the server does not answer")
        checker.heard(index, *found)
    return askers


def _swap(server: Served, bundles: list[Bundle], link: Path, n: int) -> dict[str, list]:
    """Reloads `n` times, to the other bundle; returns reload_s, errors and rss_mib (n + 1)."""
    seen: dict[str, list] = {"reload_s": [], "errors": [], "rss_mib": [server.rss_mib()]}
    with PolicyClient(server.endpoint, timeout_s=10) as client:
        for i in range(n):
            bundle = bundles[(i + 1) % 2]
            fresh = link.with_suffix(".new")
            fresh.symlink_to(bundle.path)
            fresh.replace(link)
            start_ns = time.monotonic_ns()
            if error := _reload(client, bundle):
                seen["errors"].append(error)
            seen["reload_s"].append((time.monotonic_ns() - start_ns) * 1e-9)
            seen["rss_mib"].append(server.rss_mib())
            if (i + 1) % 10 == 0:
                progress = f"{i + 1} of {n}, {len(seen['errors'])} failed"
                print(f"reload: {progress}, RSS {seen['rss_mib'][-1]:.1f} MiB", flush=True)
    return seen


def _reload(client: PolicyClient, bundle: Bundle) -> str:
    """Reloads and returns what went wrong, "" where nothing did."""
    try:
        served = client.reload()["bundle_hash"]
    except (PolicyError, PolicyTimeout) as error:
        return str(error)
    return "" if served == bundle.hash else f"{served[:12]} instead of {bundle.hash[:12]}"
