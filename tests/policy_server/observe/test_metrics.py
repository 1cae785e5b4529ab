import builtins
import contextlib
import http.client
import re
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from policy_server.bench.statistics import Histogram
from policy_server.control.client import PolicyClient
from policy_server.observe import metrics
from policy_server.observe.metrics import Health, Latency, OnLoop, Snapshot, serve_metrics
from policy_server.observe.monitor import Monitor, snapshot
from policy_server.serving.server import PolicyServer
from policy_server.transport.address import ServerError


def get(address, path, method="GET"):
    connection = http.client.HTTPConnection(address, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def histogram_of(*values_us):
    histogram = Histogram()
    for value_us in values_us:
        histogram.add(value_us)
    return histogram


def example(**changes):
    histogram = histogram_of(1, 3, 100, 10_000_000)
    latencies = {name: Latency.of(histogram) for name in ("queue_us", "inference_us", "server_us")}
    values = {
        "policy": "arm",
        "bundle_hash": "0f1e",
        "provider": "cpu",
        "version": "9",
        "statuses": {"OK": 7, "LATE": 2},
    }
    return Snapshot(
        **{
            **values,
            "latencies": latencies,
            "batches": {1: 5, 4: 2},
            "reloads": {"failed": 1},
            **changes,
        }
    )


@contextlib.contextmanager
def pages(snapshot=example, health=lambda: Health("serving", time.monotonic_ns())):
    with contextlib.closing(serve_metrics("127.0.0.1:0", snapshot, health)) as server:
        yield server.address


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_prometheus_reads():
    with pages(
        lambda: example(n_sessions=3, n_queued=4, n_blocked=5, n_missed_budgets=2, uptime_s=1.5)
    ) as address:
        status, text = get(address, "/metrics")
    read = samples(text)
    assert status == 200
    assert (
        read[("edp_answers_total", ("status", "OK"))] == 7
        and read[("edp_answers_total", ("status", "LATE"))] == 2
    )
    assert (
        read[("edp_batches_total", ("size", "1"))] == 5
        and read[("edp_batches_total", ("size", "4"))] == 2
    )
    assert read[("edp_reloads_total", ("outcome", "failed"))] == 1
    names = (
        "edp_sessions",
        "edp_queued",
        "edp_blocked_peers",
        "edp_missed_budgets_total",
        "edp_uptime_seconds",
    )
    assert [read[(name,)] for name in names] == [3, 4, 5, 2, 1.5]
    labels = ("bundle_hash", "0f1e"), ("policy", "arm"), ("provider", "cpu"), ("version", "9")
    assert read[("edp_policy_info", *labels)] == 1
    for name in ("queue", "inference", "server"):
        assert read[(f"edp_{name}_seconds_count",)] == 4
        assert read[(f"edp_{name}_seconds_sum",)] == pytest.approx(10.000104)
        assert read[(f"edp_{name}_seconds_bucket", ("le", "+Inf"))] == 4


def test_buckets_are_cumulative_and_at_the_edges_of_the_histogram():
    values = [0, 1, 2, 3, 4, 5, 100, 4_000_000, 5_000_000, 3_000_000_000]
    rows = Latency.of(histogram_of(*values)).buckets()
    assert rows[0] == ("1e-06", 2) and rows[-1] == ("+Inf", 10) and len(rows) == 90
    assert [float(edge) for edge, _ in rows] == sorted(float(edge) for edge, _ in rows)
    for edge, n in rows:
        assert n == sum(value <= float(edge) * 1e6 * 1.00001 for value in values), edge
    assert dict(rows)["4e-06"] == 5


def test_an_edge_belongs_to_its_own_bucket():
    """Prometheus' le means "at most". The server counts whole microseconds, so that 1, 2, 4, 8 are on an edge."""
    histogram = histogram_of(1, 2, 2, 4, 8, 9, 1024, 2**22, 2**22 + 1)
    rows = dict(Latency.of(histogram).buckets())
    edges = (
        "1e-06",
        "1.18921e-06",
        "1.68179e-06",
        "2e-06",
        "3.36359e-06",
        "4e-06",
        "8e-06",
        "9.51366e-06",
    )
    assert [rows[edge] for edge in edges] == [1, 1, 1, 3, 3, 4, 5, 6]
    assert [rows[edge] for edge in ("0.000861078", "0.001024", "3.52698", "4.1943", "+Inf")] == [
        6,
        7,
        7,
        8,
        9,
    ]
    assert histogram.percentile_us(3 / 9) == 2 and histogram.percentile_us(4 / 9) == 4
    assert sum(histogram.counts()) == histogram.n == 9


def test_labels_cannot_break_the_format():
    with pages(lambda: example(policy='x"} 1\nevil 2', statuses={'"\\\n': 1})) as address:
        read = samples(get(address, "/metrics")[1])
    assert (
        not any(name[0] == "evil" for name in read)
        and ("edp_answers_total", ("status", '"\\\n')) in read
    )


@pytest.mark.parametrize(
    ("state", "age_s", "alive", "ready"),
    [
        ("serving", 0, 200, 200),
        ("serving", 4.5, 200, 200),
        ("serving", 5.5, 503, 200),
        ("draining", 0, 200, 503),
        ("draining", 6, 503, 503),
        ("loading", 60, 200, 503),
    ],
)
def test_health_and_readiness(state, age_s, alive, ready):
    with pages(health=lambda: Health(state, time.monotonic_ns() - int(age_s * 1e9))) as address:
        assert get(address, "/healthz")[0] == alive
        assert get(address, "/readyz") == (ready, f"{state}\n")


def test_nothing_else_is_there():
    with pages() as address:
        assert get(address, "/")[0] == 404 and get(address, "/metrics/..")[0] == 404
        assert get(address, "/metrics", "POST")[0] == 501
        assert get(address, "/metrics?x=1")[0] == 200


def test_silent_connections_are_bounded_and_end(monkeypatch):
    monkeypatch.setattr(metrics._Handler, "timeout", 0.3)
    with pages() as address, contextlib.ExitStack() as stack:
        host, port = address.split(":")
        for _ in range(3 * metrics._MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, int(port)), 10))
        n_threads, answered, end = 0, False, time.monotonic() + 10
        while not answered and time.monotonic() < end:
            n_threads = max(
                n_threads, sum("process_request" in thread.name for thread in threading.enumerate())
            )
            with contextlib.suppress(OSError, http.client.HTTPException):
                answered = get(address, "/healthz")[0] == 200
        assert answered and 1 <= n_threads <= metrics._MAX_CONNECTIONS


def test_a_loop_that_stands_still_is_an_answer_too():
    on_loop = OnLoop(example)
    with pages(lambda: on_loop.ask(0.05)) as address:
        status, text = get(address, "/metrics")
    assert status == 503 and "did not turn for 0.05 s" in text


def test_the_value_is_made_on_the_loop_and_only_when_asked():
    made = []
    on_loop = OnLoop(lambda: made.append(threading.get_ident()) or len(made))
    on_loop.poll()
    assert made == []
    answers = []
    askers = [threading.Thread(target=lambda: answers.append(on_loop.ask(10))) for _ in range(3)]
    for asker in askers:
        asker.start()
    end = time.monotonic() + 10
    while any(asker.is_alive() for asker in askers) and time.monotonic() < end:
        on_loop.poll()
    assert sorted(answers) == [1, 2, 3] and set(made) == {threading.get_ident()}


@pytest.mark.parametrize("address", ["x", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1", ""])
def test_addresses_are_checked(address):
    with pytest.raises(ServerError, match="expected HOST:PORT"):
        serve_metrics(address, example, lambda: Health("serving", 0))


def test_an_address_in_use_is_said():
    with (
        pages() as address,
        pytest.raises(ServerError, match=r"cannot serve metrics on .* choose another --metrics"),
    ):
        serve_metrics(address, example, lambda: Health("serving", 0))


def test_loopback_is_the_default():
    with contextlib.closing(serve_metrics("0", example, lambda: Health("serving", 0))) as server:
        assert server.address.startswith("127.0.0.1:")


def test_without_prometheus_client_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("prometheus_client"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ServerError, match=r"pip install 'edp-robot\[serve\]'"):
        serve_metrics("127.0.0.1:0", example, lambda: Health("serving", 0))


def test_a_real_servers_counts(bundle_path, monkeypatch):
    server = PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu")
    with contextlib.closing(Monitor("127.0.0.1:0")) as monitor:
        turn = server._turn
        monkeypatch.setattr(
            server, "_turn", lambda *args, **kwargs: (turn(*args, **kwargs), monitor.poll())[0]
        )
        monitor.attach(server)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            with PolicyClient(server.endpoint, 10) as client:
                for _ in range(20):
                    client.act(np.zeros(3))
            read = samples(get(monitor.address, "/metrics")[1])
            assert get(monitor.address, "/readyz") == (200, "serving\n")
        finally:
            server.stop()
            thread.join(20)
        assert get(monitor.address, "/readyz") == (503, "draining\n")
    told = snapshot(server)
    assert told.policy == "tiny" and told.bundle_hash == server.policy.bundle.hash
    assert read[("edp_answers_total", ("status", "OK"))] >= 20
    assert read[("edp_batches_total", ("size", "1"))] == 20
    assert read[("edp_inference_seconds_count",)] == 20 and read[("edp_sessions",)] == 1


def test_the_monitor_says_loading_before_it_has_a_server():
    with contextlib.closing(Monitor("127.0.0.1:0")) as monitor:
        assert (
            get(monitor.address, "/readyz") == (503, "loading\n")
            and get(monitor.address, "/healthz")[0] == 200
        )


@pytest.mark.parametrize("file", ["alerts.yml", "prometheus.yml"])
def test_the_examples_name_metrics_that_exist(file):
    text = (Path(__file__).parents[3] / "examples/deploy" / file).read_text()
    with pages() as address:
        there = {name for name, *_ in samples(get(address, "/metrics")[1])}
    named = set(re.findall(r"\bedp_[a-z_]+", text))
    assert named <= there and (named or file == "prometheus.yml")
