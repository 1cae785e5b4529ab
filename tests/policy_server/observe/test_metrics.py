"""The metrics that Prometheus reads."""

import builtins
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from policy_server.contract.errors import ServerError
from policy_server.observe.histogram import Histogram
from policy_server.observe.metrics import Snapshot, cumulative_buckets, metrics_app

DEPLOY = Path(__file__).parents[3] / "examples" / "deploy"


def histogram_of(*values_us):
    histogram = Histogram()
    for value_us in values_us:
        histogram.add(value_us)
    return histogram


def example(**changes):
    histogram = histogram_of(1, 3, 100, 10_000_000)
    values = {
        "policy": "arm",
        "bundle_hash": "0f1e",
        "provider": "cpu",
        "version": "9",
        "statuses": {"OK": 7, "LATE": 2},
        "latencies": dict.fromkeys(("queue_us", "inference_us", "server_us"), histogram),
        "batches": {1: 5, 4: 2},
        "reloads": {"failed": 1},
    }
    return Snapshot(**{**values, **changes})


def scrape(snapshot):
    """Returns the values of all samples, by name and labels."""
    app = metrics_app(lambda: snapshot)
    parts = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}, lambda *_: None)
    return samples(b"".join(parts).decode())


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_the_snapshot():
    read = scrape(example(n_sessions=3, n_queued=4, n_blocked=5, n_missed_budgets=2, uptime_s=1.5))
    assert read[("edp_answers_total", ("status", "OK"))] == 7
    assert read[("edp_answers_total", ("status", "LATE"))] == 2
    assert read[("edp_batches_total", ("size", "1"))] == 5
    assert read[("edp_batches_total", ("size", "4"))] == 2
    assert read[("edp_reloads_total", ("outcome", "failed"))] == 1
    assert read[("edp_sessions",)] == 3
    assert read[("edp_queued",)] == 4
    assert read[("edp_blocked_peers",)] == 5
    assert read[("edp_missed_budgets_total",)] == 2
    assert read[("edp_uptime_seconds",)] == 1.5
    labels = ("bundle_hash", "0f1e"), ("policy", "arm"), ("provider", "cpu"), ("version", "9")
    assert read[("edp_policy_info", *labels)] == 1
    for name in ("queue", "inference", "server"):
        assert read[(f"edp_{name}_seconds_count",)] == 4
        assert read[(f"edp_{name}_seconds_sum",)] == pytest.approx(10.000104)
        assert read[(f"edp_{name}_seconds_bucket", ("le", "+Inf"))] == 4


def test_buckets_are_cumulative_and_at_the_edges_of_the_histogram():
    values = [0, 1, 2, 3, 4, 5, 100, 4_000_000, 5_000_000, 3_000_000_000]
    rows = cumulative_buckets(histogram_of(*values))
    assert rows[0] == ("1e-06", 2) and rows[-1] == ("+Inf", 10) and len(rows) == 90
    assert [float(edge) for edge, _ in rows] == sorted(float(edge) for edge, _ in rows)
    for edge, n in rows:
        assert n == sum(value <= float(edge) * 1e6 * 1.00001 for value in values), edge
    assert dict(rows)["4e-06"] == 5


def test_an_edge_belongs_to_its_own_bucket():
    """Prometheus' le means "at most". Latencies are whole microseconds, so 1, 2, 4, 8 are edges."""
    histogram = histogram_of(1, 2, 2, 4, 8, 9, 1024, 2**22, 2**22 + 1)
    rows = dict(cumulative_buckets(histogram))
    n_up_to = {
        "1e-06": 1,
        "1.18921e-06": 1,
        "1.68179e-06": 1,
        "2e-06": 3,
        "3.36359e-06": 3,
        "4e-06": 4,
        "8e-06": 5,
        "9.51366e-06": 6,
        "0.000861078": 6,
        "0.001024": 7,
        "3.52698": 7,
        "4.1943": 8,
        "+Inf": 9,
    }
    assert {edge: rows[edge] for edge in n_up_to} == n_up_to
    assert histogram.percentile_us(3 / 9) == 2 and histogram.percentile_us(4 / 9) == 4
    assert sum(histogram.counts()) == histogram.n == 9


def test_labels_cannot_break_the_format():
    read = scrape(example(policy='x"} 1\nevil 2', statuses={'"\\\n': 1}))
    assert not any(name[0] == "evil" for name in read)
    assert ("edp_answers_total", ("status", '"\\\n')) in read


def test_without_prometheus_client_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("prometheus_client"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ServerError, match=r"pip install 'edp-robot\[serve\]'"):
        metrics_app(example)


@pytest.mark.parametrize("file", ["alerts.yml", "prometheus.yml"])
def test_the_examples_name_metrics_that_exist(file):
    there = {name for name, *_ in scrape(example())}
    named = set(re.findall(r"\bedp_[a-z_]+", (DEPLOY / file).read_text()))
    assert named <= there and (named or file == "prometheus.yml")
