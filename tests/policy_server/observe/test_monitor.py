"""The pages /metrics, /healthz and /readyz over HTTP."""

import contextlib
import http.client
import socket
import threading
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from policy_server.contract.errors import ServerError
from policy_server.control.client import PolicyClient
from policy_server.observe import monitor as pages_module
from policy_server.observe.metrics import Snapshot
from policy_server.observe.monitor import Health, Monitor, OnLoop, serve_pages
from policy_server.serving.server import PolicyServer


def get(address, path, method="GET"):
    connection = http.client.HTTPConnection(address, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def example():
    return Snapshot("arm", "0f1e", "cpu", "9", statuses={"OK": 7}, latencies={})


def serving():
    return Health("serving", time.monotonic_ns())


@contextlib.contextmanager
def pages(snapshot=example, health=serving):
    with contextlib.closing(serve_pages("127.0.0.1:0", snapshot, health)) as server:
        yield server.address


def values(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


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


def test_a_loop_that_stands_still_is_told_in_words():
    with pages(health=lambda: Health("serving", time.monotonic_ns() - 7 * 10**9)) as address:
        assert get(address, "/healthz")[1] == "the serving loop stands still for 7 s\n"


def test_other_pages_and_methods_are_refused():
    with pages() as address:
        assert get(address, "/")[0] == 404 and get(address, "/metrics/..")[0] == 404
        assert get(address, "/metrics", "POST")[0] == 405
        status, text = get(address, "/metrics?x=1")
    assert status == 200 and values(text)[("edp_answers_total", ("status", "OK"))] == 7


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/other"])
def test_head_is_answered_like_get_without_the_body(path):
    with pages() as address:
        answers = [asked(address, f"{method} {path} HTTP/1.0") for method in ("GET", "HEAD")]
    heads, bodies = zip(*(answer.split("\r\n\r\n", 1) for answer in answers), strict=True)
    got, head = ([line for line in each.splitlines() if "Date" not in line] for each in heads)
    assert got == head and f"Content-Length: {len(bodies[0])}" in head
    assert bodies[0] and not bodies[1]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/other"])
def test_other_methods_are_told_which_ones_there_are(method, path):
    with pages() as address:
        answer = asked(address, f"{method} {path} HTTP/1.1\r\nHost: a")
    assert " 405 " in answer.splitlines()[0] and "Allow: GET, HEAD" in answer


@pytest.mark.parametrize(
    ("line", "code"), [("GET", 400), ("GET / X", 400), ("GET / HTTP/9.9", 505), ("\0\1\2 \3", 400)]
)
def test_malformed_requests_are_answered(line, code):
    with pages() as address:
        assert str(code) in asked(address, line)
        assert get(address, "/healthz")[0] == 200


def asked(address, request):
    """Returns all that comes back for a request's bytes."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"{request}\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()


@pytest.mark.parametrize("host", ["[::1]", "localhost", "127.0.0.1", ""])
def test_pages_are_served_on_addresses_of_all_kinds(host):
    with contextlib.closing(serve_pages(f"{host}:0", example, serving)) as server:
        assert get(server.address, "/healthz") == (200, "ok\n")
        assert ("[::1]:" in server.address) == (host == "[::1]")


@pytest.mark.parametrize("address", ["::1", "::1:9464", "[::1]", "[::1:9464", "a:b", "a:65536"])
def test_other_addresses_are_refused_in_words(address):
    with pytest.raises(ServerError, match=r"expected HOST:PORT, like 127.0.0.1:9464 or \[::1\]"):
        serve_pages(address, example, serving)


def test_silent_connections_are_bounded_and_end(monkeypatch):
    monkeypatch.setattr(pages_module._Handler, "timeout", 0.3)
    with pages() as address, contextlib.ExitStack() as stack:
        host, port = address.split(":")
        for _ in range(3 * pages_module._MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, int(port)), 10))
        n_threads = 0
        answered = False
        end_s = time.monotonic() + 10
        while not answered and time.monotonic() < end_s:
            names = [thread.name for thread in threading.enumerate()]
            n_threads = max(n_threads, sum("process_request" in name for name in names))
            with contextlib.suppress(OSError, http.client.HTTPException):
                answered = get(address, "/healthz")[0] == 200
    assert answered and 1 <= n_threads <= pages_module._MAX_CONNECTIONS


def test_a_scrape_of_a_loop_that_stands_still_fails():
    on_loop = OnLoop(example)
    with pages(lambda: on_loop.ask(0.05)) as address:
        status, text = get(address, "/metrics")
    assert status == 503 and "did not turn for 0.05 s" in text


def test_the_loop_makes_the_value_and_only_when_asked():
    made = []
    on_loop = OnLoop(lambda: made.append(threading.get_ident()) or len(made))
    on_loop.poll()
    assert made == []
    answers = []
    askers = [threading.Thread(target=lambda: answers.append(on_loop.ask(10))) for _ in range(3)]
    for asker in askers:
        asker.start()
    end_s = time.monotonic() + 10
    while any(asker.is_alive() for asker in askers) and time.monotonic() < end_s:
        on_loop.poll()
    assert sorted(answers) == [1, 2, 3] and set(made) == {threading.get_ident()}


@pytest.mark.parametrize("address", ["x", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1", ""])
def test_addresses_are_checked(address):
    with pytest.raises(ServerError, match="expected HOST:PORT"):
        Monitor(address)


def test_an_address_in_use_is_an_error():
    with (
        pages() as address,
        pytest.raises(ServerError, match=r"cannot serve metrics on .* choose another --metrics"),
    ):
        Monitor(address)


def test_loopback_is_the_default():
    with contextlib.closing(Monitor("0")) as monitor:
        assert monitor.address.startswith("127.0.0.1:")


def test_a_monitor_without_a_server_is_loading():
    with contextlib.closing(Monitor("127.0.0.1:0")) as monitor:
        assert get(monitor.address, "/readyz") == (503, "loading\n")
        assert get(monitor.address, "/healthz")[0] == 200


def test_a_servers_counts_from_loading_to_draining(bundle_path):
    with contextlib.closing(Monitor("127.0.0.1:0")) as monitor:
        server = PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu", monitor=monitor)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            with PolicyClient(server.endpoint, 10) as client:
                for _ in range(20):
                    client.act(np.zeros(3))
            read = values(get(monitor.address, "/metrics")[1])
            assert get(monitor.address, "/readyz") == (200, "serving\n")
        finally:
            server.stop()
            thread.join(20)
        assert get(monitor.address, "/readyz") == (503, "draining\n")
    snapshot = server.state.snapshot()
    assert snapshot.policy == "tiny"
    assert snapshot.bundle_hash == server.state.policy.bundle.hash
    assert read[("edp_answers_total", ("status", "OK"))] >= 20
    assert read[("edp_batches_total", ("size", "1"))] == 20
    assert read[("edp_inference_seconds_count",)] == 20 and read[("edp_sessions",)] == 1
