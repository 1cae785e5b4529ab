"""Prometheus metrics, liveness and readiness over HTTP.

    /metrics    what `Snapshot` holds, in Prometheus' text format
    /healthz    200 while the serving loop turns, or the policy is still being loaded; else 503
    /readyz     200 while robots are served, 503 while loading and draining

Nothing is computed before somebody asks. There is no authentication: bind loopback, or a network that you trust.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from policy_server.bench.statistics import BUCKETS_PER_OCTAVE, Histogram
from policy_server.transport.address import ServerError

TICK_LIMIT_S = 5.0
_MAX_CONNECTIONS = 8
_STEP = 2  # every second edge of the histogram: 19 %
_N_EDGES = 22 * BUCKETS_PER_OCTAVE  # 1 us to 4.2 s; what took longer is in +Inf
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Latency:
    """One histogram: counts by bucket, those of bucket i at most 2^(i/8) us, and the sum [us]."""

    counts: tuple[int, ...]
    sum_us: float

    @classmethod
    def of(cls, histogram: Histogram) -> "Latency":
        """Returns a copy of a server's histogram."""
        return cls(tuple(histogram.counts()), float(histogram.sum_us))

    def buckets(self) -> list[tuple[str, int]]:
        """Returns (upper edge [s], number at most that long), the last one +Inf, as Prometheus counts."""
        rows, n, at = [], 0, 0
        for index in range(0, _N_EDGES + 1, _STEP):
            n += sum(self.counts[at : index + 1])
            at = index + 1
            rows.append((f"{2 ** (index / BUCKETS_PER_OCTAVE) * 1e-6:.6g}", n))
        return [*rows, ("+Inf", n + sum(self.counts[at:]))]


@dataclass(frozen=True)
class Snapshot:
    """What a server has done until now.

    Attributes:
        policy, bundle_hash, provider, version: What serves; version of this package.
        statuses: Answers by status, and what else is counted.
        latencies: queue_us, inference_us and server_us of the answered requests.
        n_sessions, n_queued, n_blocked: Clients, observations that wait, peers that are ignored for bad messages.
        batches: Batches by size.
        reloads: Reloads by outcome.
        n_missed_budgets: Requests that were answered LATE.
        uptime_s: Since the start [s].
    """

    policy: str
    bundle_hash: str
    provider: str
    version: str
    statuses: Mapping[str, int]
    latencies: Mapping[str, Latency]
    n_sessions: int = 0
    n_queued: int = 0
    n_blocked: int = 0
    batches: Mapping[int, int] = field(default_factory=dict)
    reloads: Mapping[str, int] = field(default_factory=dict)
    n_missed_budgets: int = 0
    uptime_s: float = 0.0


@dataclass(frozen=True)
class Health:
    """Whether a server lives and serves.

    Attributes:
        state: loading, serving or draining.
        ticked_ns: When its loop last turned, monotonic [ns].
    """

    state: Literal["loading", "serving", "draining"]
    ticked_ns: int

    def alive(self, now_ns: int) -> bool:
        """Returns whether the loop has turned in the last TICK_LIMIT_S; loading a policy may take longer."""
        return self.state == "loading" or now_ns - self.ticked_ns < TICK_LIMIT_S * 1e9


class OnLoop:
    """Lets other threads ask the serving thread for something, which costs it nothing while nobody asks.

    Args:
        make: Called by `poll`, in the thread that owns the data.
    """

    def __init__(self, make: Callable[[], Any]):
        self._make = make
        self._lock = threading.Lock()
        self._wanted = False
        self._made = threading.Event()
        self._value: Any = None

    def poll(self) -> None:
        """Answers who asks, if somebody does; called by the serving thread again and again."""
        if self._wanted:
            self._wanted, self._value = False, self._make()
            self._made.set()

    def ask(self, timeout_s: float = 2.0) -> Any:
        """Returns what `make` returns at the next `poll`. Raises TimeoutError after `timeout_s`."""
        with self._lock:
            self._made.clear()
            self._wanted = True
            if not self._made.wait(timeout_s):
                raise TimeoutError(f"the serving loop did not turn for {timeout_s} s")
            return self._value


class MetricsServer(ThreadingHTTPServer):
    """Answers in threads of its own until `close`; see `serve_metrics`."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self, host: str, port: int, snapshot: Callable[[], Snapshot], health: Callable[[], Health]
    ):
        self.render = _renderer(snapshot)
        self.health = health
        self._slots = threading.Semaphore(_MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """HOST:PORT where it listens."""
        return "{}:{}".format(*self.server_address[:2])

    def close(self) -> None:
        """Stops listening."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread, or hangs up where too many are at it."""
        if not self._slots.acquire(blocking=False):
            return self.shutdown_request(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Forgets a client that hung up."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 2.0  # between two bytes of a request
    server: MetricsServer
    server_version, sys_version = "edp", ""

    def do_GET(self) -> None:
        """Answers one of the three pages."""
        page = {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}.get(
            self.path.partition("?")[0]
        )
        if page is None:
            return self._answer(404, "expected /metrics, /healthz or /readyz\n")
        page()

    def _metrics(self) -> None:
        try:
            content_type, text = self.server.render()
        except TimeoutError as error:
            return self._answer(503, f"{error}\n")
        self._answer(200, text, content_type)

    def _healthz(self) -> None:
        health, now_ns = self.server.health(), time.monotonic_ns()
        if health.alive(now_ns):
            return self._answer(200, "ok\n")
        self._answer(
            503, f"the serving loop stands still for {(now_ns - health.ticked_ns) * 1e-9:.0f} s\n"
        )

    def _readyz(self) -> None:
        state = self.server.health().state
        self._answer(200 if state == "serving" else 503, f"{state}\n")

    def _answer(self, code: int, text: str, content_type: str = _TEXT) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing."""


def serve_metrics(
    address: str, snapshot: Callable[[], Snapshot], health: Callable[[], Health]
) -> MetricsServer:
    """Returns a running HTTP server with /metrics, /healthz and /readyz.

    Args:
        address: HOST:PORT; PORT alone means 127.0.0.1:PORT, and port 0 a free one.
        snapshot: Called at each scrape, in another thread; may raise TimeoutError.
        health: Likewise, for the other two.

    Raises:
        ServerError: The address is malformed or in use, or prometheus-client is not installed.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ServerError(f"metrics address {address!r}: expected HOST:PORT, like 127.0.0.1:9464")
    try:
        return MetricsServer(host or "127.0.0.1", int(port), snapshot, health)
    except (OSError, OverflowError) as error:
        raise ServerError(
            f"cannot serve metrics on {address}: {error}; choose another --metrics"
        ) from error


def _renderer(snapshot: Callable[[], Snapshot]) -> Callable[[], tuple[str, str]]:
    """Returns a function that returns (content type, text) of a fresh snapshot."""
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ModuleNotFoundError as error:
        raise ServerError(
            "--metrics needs prometheus-client; pip install 'edp-robot[serve]'"
        ) from error

    def render() -> tuple[str, str]:
        parts = []
        for family in _families(snapshot()):
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_One(family))
            parts.append(generate_latest(registry).decode())
            time.sleep(
                0
            )  # a family takes a fraction of a millisecond; the serving thread may have the interpreter
        return CONTENT_TYPE_LATEST, "".join(parts)

    return render


class _One:
    """A collector of one family."""

    def __init__(self, family: Any):
        self._family = family

    def collect(self) -> list[Any]:
        return [self._family]


def _families(snapshot: Snapshot) -> Iterator[Any]:
    """Yields the metrics of a snapshot."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )

    names = ("policy", "bundle_hash", "provider", "version")
    yield InfoMetricFamily(
        "edp_policy", "What serves", value={name: getattr(snapshot, name) for name in names}
    )
    for name, label, text, values in (
        ("edp_answers", "status", "Answers by status", snapshot.statuses),
        ("edp_batches", "size", "Batches by number of observations", snapshot.batches),
        ("edp_reloads", "outcome", "Reloads by outcome", snapshot.reloads),
    ):
        family = CounterMetricFamily(name, text, labels=[label])
        for key, value in values.items():
            family.add_metric([str(key)], value)
        yield family
    yield CounterMetricFamily(
        "edp_missed_budgets", "Requests answered LATE", value=snapshot.n_missed_budgets
    )
    for name, text, value in (
        ("edp_sessions", "Clients that are remembered", snapshot.n_sessions),
        ("edp_queued", "Observations that wait", snapshot.n_queued),
        ("edp_blocked_peers", "Peers that are ignored for their bad messages", snapshot.n_blocked),
        ("edp_uptime_seconds", "Since the start", snapshot.uptime_s),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    for name, latency in snapshot.latencies.items():
        family = HistogramMetricFamily(
            f"edp_{name.removesuffix('_us')}_seconds", "Of answered requests"
        )
        family.add_metric([], buckets=latency.buckets(), sum_value=latency.sum_us * 1e-6)
        yield family
