"""What a server has done, as Prometheus metrics."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_server.contract.errors import ServerError
from policy_server.observe.histogram import BUCKETS_PER_OCTAVE, Histogram

_STEP = 2  # Every second edge of the histogram: 19 %.
_N_EDGES = 22 * BUCKETS_PER_OCTAVE  # 1 us to 4.2 s; longer latencies are in +Inf.


@dataclass(frozen=True)
class Snapshot:
    """What a server has done so far.

    Attributes:
        policy: Name of the served policy.
        bundle_hash: Hash of its bundle.
        provider: The provider in use.
        version: Version of this package.
        statuses: Answers by status, and what else is counted.
        latencies: queue_us, inference_us and server_us of the answered requests.
        n_sessions: Clients.
        n_queued: Observations that wait.
        n_blocked: Peers that are ignored for bad messages.
        batches: Batches by size.
        reloads: Reloads by outcome.
        n_missed_budgets: Requests that were answered LATE.
        uptime_s: Time since the start [s].
    """

    policy: str
    bundle_hash: str
    provider: str
    version: str
    statuses: Mapping[str, int]
    latencies: Mapping[str, Histogram]
    n_sessions: int = 0
    n_queued: int = 0
    n_blocked: int = 0
    batches: Mapping[int, int] = field(default_factory=dict)
    reloads: Mapping[str, int] = field(default_factory=dict)
    n_missed_budgets: int = 0
    uptime_s: float = 0.0


def cumulative_buckets(histogram: Histogram) -> list[tuple[str, int]]:
    """Returns (upper edge [s], number of latencies up to it). The last edge is +Inf."""
    counts = histogram.counts()
    rows = []
    for index in range(0, _N_EDGES + 1, _STEP):
        edge_s = 2 ** (index / BUCKETS_PER_OCTAVE) * 1e-6
        rows.append((f"{edge_s:.6g}", sum(counts[: index + 1])))
    return [*rows, ("+Inf", sum(counts))]


def metrics_app(snapshot: Callable[[], Snapshot]) -> Callable[..., Iterable[bytes]]:
    """Returns a WSGI application that answers with the metrics of a new snapshot.

    Raises:
        ServerError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app
    except ModuleNotFoundError as error:
        raise ServerError(
            "--metrics needs prometheus-client; pip install 'edp-robot[serve]'"
        ) from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return make_wsgi_app(registry)


class _Collector:
    """Collects the metrics of a new snapshot at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]):
        self._snapshot = snapshot

    def collect(self) -> Iterator[Any]:
        """Yields the metric families.

        Writing a family takes a fraction of a millisecond. In between, the serving thread may have
        the interpreter.
        """
        for family in _families(self._snapshot()):
            yield family
            time.sleep(0)


def _families(snapshot: Snapshot) -> Iterator[Any]:
    """Yields the metric families of a snapshot."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )

    names = ("policy", "bundle_hash", "provider", "version")
    labels = {name: getattr(snapshot, name) for name in names}
    yield InfoMetricFamily("edp_policy", "The served policy", value=labels)
    for name, label, text, values in (
        ("edp_answers", "status", "Answers by status", snapshot.statuses),
        ("edp_batches", "size", "Batches by number of observations", snapshot.batches),
        ("edp_reloads", "outcome", "Reloads by outcome", snapshot.reloads),
    ):
        family = CounterMetricFamily(name, text, labels=[label])
        for key, value in values.items():
            family.add_metric([str(key)], value)
        yield family
    n_missed = snapshot.n_missed_budgets
    yield CounterMetricFamily("edp_missed_budgets", "Requests answered LATE", value=n_missed)
    for name, text, value in (
        ("edp_sessions", "Clients that have a session", snapshot.n_sessions),
        ("edp_queued", "Observations that wait", snapshot.n_queued),
        ("edp_blocked_peers", "Peers that are ignored for bad messages", snapshot.n_blocked),
        ("edp_uptime_seconds", "Time since the start", snapshot.uptime_s),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    for name, histogram in snapshot.latencies.items():
        stem = name.removesuffix("_us")
        family = HistogramMetricFamily(f"edp_{stem}_seconds", "Answered requests")
        buckets = cumulative_buckets(histogram)
        family.add_metric([], buckets=buckets, sum_value=histogram.sum_us * 1e-6)
        yield family
