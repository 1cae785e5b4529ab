"""The load generator's processes against servers of the tests' own."""

import contextlib
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from support.load_fakes import REPLY_BYTES, FakeServer, error, ok

from policy_server.bench.load.load_report import counts, latency_us, result
from policy_server.bench.load.plan import LoadError, LoadPlan, default_processes, run
from policy_server.contract.wire import Status

PLAN = LoadPlan(
    obs=(0.0, 0.0, 0.0), reply_bytes=REPLY_BYTES, endpoint="tcp://x", warmup_s=0.0, timeout_s=0.5
)
PARENT = """
import sys
from policy_server.bench.load.plan import LoadPlan, run

run(LoadPlan(obs=(0.0,), reply_bytes=16, endpoint=sys.argv[1], duration_s=1000))
"""


def measure(server, n_processes=1, **changes):
    return run(replace(PLAN, endpoint=server.endpoint, **changes), n_processes)


def wait_for(condition, timeout_s=20.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def test_a_fixed_rate_counts_every_request_that_a_stall_delays():
    """100 Hz and a stall of 200 ms: 20 requests fall into it. They wait 200 ms, 190 ms, ..."""
    with FakeServer(stall=(30, 0.2)) as server:
        samples = measure(server, rate_hz=100.0, n_requests=100)
    start_ns, end_ns = server.stall_ns
    scheduled_ns = samples.columns["scheduled_ns"]
    late = (scheduled_ns > start_ns) & (scheduled_ns < end_ns)
    assert 19 <= late.sum() <= (end_ns - start_ns) / 1e7 + 1
    assert set(np.diff(scheduled_ns)) == {10_000_000}
    latencies_ms = latency_us(samples.columns)[late] / 1e3
    least_ms = (end_ns - scheduled_ns[late]) / 1e6
    assert (latencies_ms >= least_ms).all()
    assert (samples.columns["sent_ns"] >= scheduled_ns).all()
    assert result(samples)["roundtrip_us"]["p90"] > 50_000


def test_a_closed_loop_sees_the_same_stall_once():
    with FakeServer(stall=(30, 0.2)) as server:
        samples = measure(server, n_requests=100)
    start_ns, end_ns = server.stall_ns
    columns = samples.columns
    stalled = (columns["sent_ns"] < start_ns) & (columns["received_ns"] > end_ns)
    assert stalled.sum() == 1 and latency_us(columns)[stalled] >= 190_000
    assert "send_late_us" not in result(samples)


def test_lost_and_double_answers_are_counted():
    """Every 7th is not answered, every 10th twice, and a stray answer comes with the 5th."""
    lost = []
    doubled = []

    def answer(header, n):
        if n % 7 == 6:
            lost.append(header.sequence)
            return []
        if n % 10 == 9:
            doubled.append(header.sequence)
            return [ok(header)] * 2
        stray = [ok(header._replace(sequence=10**9))] if n == 4 else []
        return [ok(header), *stray]

    with FakeServer(answer) as server:
        samples = measure(server, rate_hz=200.0, n_requests=100)
    unanswered = np.flatnonzero(samples.columns["received_ns"] < 0)
    assert unanswered.tolist() == [sequence - 1 for sequence in lost if sequence <= 100]
    assert counts(samples.columns) == {"OK": 86, "LOST": 14}
    assert samples.n_duplicate == len(doubled) and samples.n_stray == 1
    said = result(samples)["roundtrip_us"]
    assert (said["n"], said["n_missing"], said["p90"]) == (100, 14, None)
    assert said["p50"] is not None


def test_a_closed_loop_goes_on_after_a_lost_answer():
    with FakeServer(lambda header, n: [] if n == 5 else [ok(header)]) as server:
        samples = measure(server, n_requests=20, timeout_s=0.05)
    assert counts(samples.columns) == {"OK": 19, "LOST": 1}
    gap_ns = np.diff(samples.columns["sent_ns"])[5]
    assert samples.columns["status"][5] == -1 and gap_ns >= 50_000_000


def test_refusals_are_counted_by_name_and_answers_of_another_size_are_bad_replies():
    statuses = [Status.LATE, Status.OVERLOADED, Status.SUPERSEDED]

    def answer(header, n):
        kind = n % 5
        if kind < 3:
            return [error(header, statuses[kind])]
        return [ok(header)] if kind == 3 else [ok(header) + b"1234"]

    with FakeServer(answer) as server:
        samples = measure(server, n_requests=50)
    names = ("OK", "LATE", "OVERLOADED", "SUPERSEDED", "BAD_REPLY")
    assert counts(samples.columns) == {"LOST": 0, **dict.fromkeys(names, 10)}


def test_clients_are_spread_over_processes_and_over_the_period():
    """5 clients at 20 Hz: sessions of their own, 10 ms apart."""
    with FakeServer() as server:
        samples = measure(server, n_processes=2, n_clients=5, rate_hz=20.0, n_requests=50)
        assert len(server.sessions) == 5
    scheduled_ns = samples.columns["scheduled_ns"]
    client = samples.columns["client"].astype(int)
    assert len(samples.cpu_share) == 2 and len(client) == 50
    phase_ns = (scheduled_ns - scheduled_ns[client == 0].min()) % 50_000_000
    assert (phase_ns == client * 10_000_000).all()
    assert (np.bincount(client) >= 8).all() and (np.diff(scheduled_ns) >= 0).all()


def test_a_deadline_travels_as_what_is_left_of_it():
    with FakeServer() as server:
        samples = measure(server, rate_hz=100.0, n_requests=20, deadline_s=0.008)
        budgets_us = [header.budget_us for header in server.headers]
    late_us = (samples.columns["sent_ns"] - samples.columns["scheduled_ns"]) // 1000
    np.testing.assert_allclose(budgets_us[:20], np.maximum(8000 - late_us, 1), atol=1)
    with FakeServer() as server:
        measure(server, n_requests=5)
        assert {header.budget_us for header in server.headers} == {0}


def test_the_warmup_is_not_in_the_samples():
    with FakeServer(stall=(1, 0.1)) as server:
        samples = measure(server, n_requests=50, warmup_s=0.2)
        assert len(server.headers) > 50
    assert len(samples.columns["sent_ns"]) == 50
    assert samples.columns["scheduled_ns"].min() > server.stall_ns[1]


def test_a_measurement_of_a_time_is_that_long():
    with FakeServer() as server:
        samples = measure(server, rate_hz=200.0, duration_s=0.5)
    assert len(samples.columns["client"]) == 100


def test_a_server_that_falls_silent_ends_the_measurement():
    with FakeServer(lambda header, n: [ok(header)] if n < 10 else []) as server:
        samples = measure(server, n_requests=1_000_000, timeout_s=0.05)
    assert counts(samples.columns)["OK"] == 10 and 1 <= counts(samples.columns)["LOST"] < 50


def test_a_missing_server_is_a_clear_error(tmp_path):
    with pytest.raises(LoadError, match="is the server running there"):
        run(replace(PLAN, endpoint=f"ipc://{tmp_path}/none", timeout_s=0.1))
    with pytest.raises(LoadError, match="expected tcp://HOST:PORT"):
        run(replace(PLAN, endpoint="carrier pigeon"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_clients": 65}, "1 to 64"),
        ({"n_clients": 0}, "1 to 64"),
        ({"rate_hz": 0.0}, "rate_hz 0.0"),
        ({"duration_s": float("nan")}, "duration_s nan"),
        ({"n_requests": 0}, "at least 1"),
        ({"warmup_s": -1.0}, "warmup_s"),
        ({"bundle": "b"}, "exactly one"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(PLAN, **changes)


def test_more_processes_than_clients_are_refused():
    assert default_processes(1) == 1
    with pytest.raises(ValueError, match="3 processes for 2 clients"):
        run(replace(PLAN, n_clients=2), 3)


def test_the_load_ends_with_its_parent():
    with FakeServer() as server:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, server.endpoint])
        with contextlib.ExitStack() as stack:
            stack.callback(parent.wait)
            stack.callback(parent.kill)
            wait_for(lambda: len(server.headers) > 20)
            assert parent.poll() is None
        seen = {"n": 0, "since_s": 0.0}

        def quiet_for_300_ms():
            if len(server.headers) != seen["n"]:
                seen.update(n=len(server.headers), since_s=time.monotonic())
            return time.monotonic() - seen["since_s"] > 0.3

        wait_for(quiet_for_300_ms)
