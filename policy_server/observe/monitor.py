"""What a server tells Prometheus: read by its own loop, when somebody asks, so that no count is read half-way."""

import time
from importlib import metadata
from typing import TYPE_CHECKING

from policy_server.observe.metrics import Health, Latency, OnLoop, Snapshot, serve_metrics

if TYPE_CHECKING:
    from policy_server.serving.server import PolicyServer


def snapshot(server: "PolicyServer") -> Snapshot:
    """Returns what the server has done; for its own thread."""
    counters, policy = server.counters, server.policy
    bad = getattr(server, "bad_messages", None)
    return Snapshot(
        policy=policy.manifest.name,
        bundle_hash=policy.bundle.hash,
        provider=policy.provider,
        version=_version(),
        statuses=dict(counters.statuses),
        latencies={name: Latency.of(histogram) for name, histogram in counters.histograms.items()},
        n_sessions=len(server.sessions),
        n_queued=len(server.scheduler),
        n_blocked=bad.n_blocked(time.monotonic_ns()) if bad else 0,
        batches=dict(counters.batches),
        reloads=dict(counters.reloads),
        n_missed_budgets=counters.statuses["LATE"],
        uptime_s=(time.monotonic_ns() - server.started_ns) * 1e-9,
    )


class Monitor:
    """The HTTP pages of `policy_server.observe.metrics`, which are there while the policy is still being loaded.

    Args:
        address: HOST:PORT.

    Raises:
        ServerError: The address is malformed or in use, or prometheus-client is not installed.
    """

    def __init__(self, address: str):
        self._server: PolicyServer | None = None
        self._on_loop = OnLoop(self._snapshot)
        self._http = serve_metrics(address, self._on_loop.ask, self.health)
        self.address = self._http.address

    def attach(self, server: "PolicyServer") -> None:
        """Tells of this server from now on, which is about to serve."""
        self._server = server

    def poll(self) -> None:
        """Answers a scrape, if there is one; called once a turn of the server's loop."""
        self._on_loop.poll()

    def health(self) -> Health:
        """Returns the server's state."""
        server = self._server
        if server is None:
            return Health("loading", time.monotonic_ns())
        return Health("draining" if server.draining else "serving", server.ticked_ns)

    def close(self) -> None:
        """Stops listening."""
        self._http.close()

    def _snapshot(self) -> Snapshot:
        assert self._server is not None
        return snapshot(self._server)


def _version() -> str:
    try:
        return metadata.version("edp-robot")
    except metadata.PackageNotFoundError:
        return "unknown"
