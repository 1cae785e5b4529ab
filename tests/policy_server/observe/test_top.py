"""What `edp top` shows, computed by hand, in pipes and in a terminal."""

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from policy_server.contract.errors import PolicyTimeout
from policy_server.control.client import PolicyClient
from policy_server.observe import top


def latency(n, scale=1.0):
    return {
        "n": n,
        "mean_us": 0,
        "max_us": 900 * scale,
        "p50_us": 20 * scale,
        "p99_us": 70 * scale,
        "p999_us": 80 * scale,
    }


def session(ordinal, n_acts, **changes):
    row = {
        "session": ordinal,
        "n_acts": n_acts,
        "n_late": 0,
        "n_errors": 0,
        "idle_s": 0.5,
        "p50_us": 30,
        "p99_us": 90,
    }
    return {**row, "hz": 0.0, **changes}


def stats(uptime_s, n_acts, counts, sessions=()):
    return {
        "uptime_s": uptime_s,
        "counts": counts,
        "bundle_hash": "0f1e2d3c4b5a69788",
        "n_sessions": len(sessions),
        "n_queued": 2,
        "n_batches": {"1": n_acts},
        "queue_us": latency(n_acts),
        "inference_us": latency(n_acts, 2),
        "server_us": latency(n_acts, 3),
        "sessions": list(sessions),
    }


BEFORE = stats(10, 100, {"OK": 110, "LATE": 4}, [session(0, 60), session(1, 40)])
AFTER = stats(
    12,
    190,
    {"OK": 202, "LATE": 9, "OVERLOADED": 5, "MALFORMED": 1},
    [session(0, 80), session(1, 100), session(2, 10)],
)


def test_rates_are_differences_by_the_servers_clock():
    rate = top.rates(BEFORE, AFTER)
    assert rate["period_s"] == 2 and rate["acts_hz"] == 45
    assert rate["statuses_hz"] == {"LATE": 2.5, "MALFORMED": 0.5, "OK": 46, "OVERLOADED": 2.5}
    assert rate["miss_share"] == 10 / 100  # 5 LATE and 5 OVERLOADED beside 90 acts.
    assert rate["sessions_hz"] == {0: 10, 1: 30, 2: 5}


def test_an_idle_server_has_no_share_and_a_restarted_one_no_rates():
    assert top.rates(BEFORE, {**BEFORE, "uptime_s": 11})["miss_share"] is None
    assert top.rates(AFTER, BEFORE) is None
    assert top.rates(BEFORE, BEFORE) is None


def test_a_frame():
    lines = top.frame("tcp://x:1", AFTER, top.rates(BEFORE, AFTER), 120, 40).splitlines()
    assert lines[0] == "edp top  tcp://x:1  policy 0f1e2d3c4b5a  up 12 s"
    assert lines[1].startswith(
        "3 sessions, 2 waiting, 45.0 acts/s, 10.00 % not computed, LATE 2.5/s, MALFORMED 0.5/s"
    )
    assert lines[2] == "since the start: LATE 9, MALFORMED 1, OK 202, OVERLOADED 5"
    words = [line.split() for line in lines]
    assert words[4] == ["[us],", "since", "the", "start", "p50", "p99", "p999", "max", "n"]
    assert words[5:8] == [
        ["queue", "20", "70", "80", "900", "190"],
        ["inference", "40", "140", "160", "1800", "190"],
        ["server", "60", "210", "240", "2700", "190"],
    ]
    assert words[10] == ["1", "30.0", "100", "0", "0", "30", "90", "0.5"]
    assert [row[0] for row in words[10:]] == ["1", "0", "2"]  # The busiest first.


def test_a_frame_without_rates_or_acts():
    text = top.frame("x", stats(3700, 0, {}, [session(0, 0)]), None)
    assert "up 1 h 1 min" in text and "after a restart" in text and "nothing yet" in text
    assert [line.split() for line in text.splitlines()][5] == ["queue", "-", "-", "-", "-", "0"]


@pytest.mark.parametrize(("n_columns", "n_rows"), [(80, 24), (40, 12), (10, 3), (200, 100)])
def test_a_frame_fits_the_screen(n_columns, n_rows):
    many = stats(12, 190, {"OK": 1}, [session(i, i) for i in range(64)])
    lines = top.frame("x", {**many, "n_sessions": 500}, None, n_columns, n_rows).splitlines()
    assert len(lines) <= n_rows and max(map(len, lines)) <= n_columns
    if n_rows >= 12:
        n_shown = sum(line.split()[1:2] == ["-"] and line.split()[0].isdecimal() for line in lines)
        assert lines[-1].split() == [str(500 - n_shown), "more"]
        assert n_shown == min(n_rows - 11, 64) or n_columns < 60


def test_a_servers_text_does_not_steer_the_terminal():
    evil = {**AFTER, "bundle_hash": "\x1b[2J\x07\n", "counts": {"\x1b]0;x": 1}}
    assert "\x1b" not in top.frame("x", evil, None) and "\x07" not in top.frame("x", evil, None)


@contextlib.contextmanager
def acting(endpoint):
    """Runs a robot that acts at about 100 Hz."""
    stop = threading.Event()

    def work():
        with PolicyClient(endpoint, 10) as client:
            while not stop.wait(0.01):
                client.act(np.zeros(3))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


def test_once_against_a_server(served):
    out = io.StringIO()
    with acting(served.endpoint), PolicyClient(served.endpoint) as client:
        top.watch(client, 0.5, once=True, out=out)
    text = out.getvalue()
    assert "\x1b" not in text and text.count("edp top") == 1
    speed = float(text.split(" waiting, ")[1].split(" acts/s")[0])
    assert 5 < speed < 150


def test_json_against_a_server(served):
    out = io.StringIO()
    with acting(served.endpoint), PolicyClient(served.endpoint) as client:
        top.watch(client, 0.3, once=True, as_json=True, out=out)
    (line,) = out.getvalue().splitlines()
    row = json.loads(line)
    assert row["endpoint"] == served.endpoint and row["rates"]["acts_hz"] > 5
    assert 0.2 < row["rates"]["period_s"] < 2
    names = {"counts", "sessions", "server_us", "n_queued", "bundle_hash", "uptime_s"}
    assert set(row["stats"]) >= names


def test_without_a_server_once_fails_and_a_bad_interval_is_refused(tmp_path):
    with PolicyClient(f"ipc://{tmp_path}/free", 0.2) as client:
        with pytest.raises(PolicyTimeout, match="is the server running"):
            top.watch(client, once=True, out=io.StringIO())
        with pytest.raises(ValueError, match=r"at least 0\.1 s"):
            top.watch(client, 0.01)


def read_until(fd, process, text, timeout_s=30):
    seen = ""
    end = time.monotonic() + timeout_s
    while text not in seen and time.monotonic() < end:
        if select.select([fd], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                seen += os.read(fd, 65536).decode()
    assert text in seen, (seen, process.poll())
    return seen


def test_live_in_a_terminal(served):
    main_end, terminal = pty.openpty()
    code = "import sys; from edp_robot.cli.top import top; sys.exit(top(sys.argv[1], 0.1))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, served.endpoint], stdout=terminal, stdin=terminal
    )
    try:
        seen = read_until(main_end, process, "\x1b[H\x1b[J")
        assert seen.startswith("\x1b[?25l")
        read_until(main_end, process, "edp top")
        process.send_signal(signal.SIGINT)
        read_until(main_end, process, "\x1b[?25h")  # The cursor is back.
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main_end)
        os.close(terminal)


def test_live_shows_a_server_that_went_away_and_came_back(start_server, bundle_path, tmp_path):
    endpoint = f"ipc://{tmp_path}/s"
    server = start_server(bundle_path, endpoint)
    with PolicyClient(endpoint, 0.3) as client:
        polls = top._polls(client, 0.1, patient=True)
        first, rate = next(polls)
        assert first["uptime_s"] > 0 and rate["period_s"] > 0
        server.process.kill()
        server.process.wait()
        complaint, rate = next(polls)
        assert "is the server running" in complaint and rate is None
        start_server(bundle_path, endpoint)
        end = time.monotonic() + 30
        while isinstance(complaint, str) and time.monotonic() < end:
            complaint, rate = next(polls)
        assert complaint["uptime_s"] < 30 and rate is not None


@pytest.mark.parametrize("interval_s", [float("nan"), float("inf"), -1.0, 0.0, 1e12])
def test_intervals_that_are_none_are_refused(interval_s):
    with pytest.raises(ValueError, match=f"interval {interval_s} s, expected at least 0.1 s"):
        top.watch(None, interval_s)
