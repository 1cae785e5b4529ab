"""Structured logs: their fields, their formats, and a reader that does not read."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from policy_server.observe import logs
from policy_server.observe.logs import Occasional, log

S = 10**9


@contextlib.contextmanager
def written(form="json", level="info"):
    """Yields a list that holds the written lines after the block."""
    stream = io.StringIO()
    lines = []
    writer = logs.setup(form, level, stream)
    try:
        yield lines
    finally:
        writer.close()
        lines += stream.getvalue().splitlines()


def test_one_object_a_line_with_both_clocks():
    before = time.monotonic()
    with written() as lines:
        log("reloaded", hash="0f1e", n=3, took_s=0.25, ok=True, none=None)
        log("two\nlines", level="warning", text='a "b"\n{"event": "forged"}')
    first, second = map(json.loads, lines)
    assert list(first)[:4] == ["event", "level", "time", "monotonic_s"]
    head = {"event": "reloaded", "level": "info"}
    fields = {"hash": "0f1e", "n": 3, "took_s": 0.25, "ok": True, "none": None}
    assert first == {**first, **head, **fields}
    assert before <= first["monotonic_s"] <= second["monotonic_s"] <= time.monotonic()
    assert abs((datetime.now(UTC) - datetime.fromisoformat(first["time"])).total_seconds()) < 60
    assert second["event"] == "two\nlines" and second["text"].endswith('"forged"}')


def test_values_become_strict_json():
    with written() as lines:
        log(
            "x",
            nan=float("nan"),
            inf=[np.inf],
            np=np.float32(0.5),
            n=np.int64(7),
            peer=b"\x01\xff",
            path=os,
            t=(1,),
        )
        log("y", time="forged", monotonic_s=-1, long="a" * 10_000)
    row, other = (json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines)
    assert row["nan"] is None and row["inf"] == [None] and row["np"] == 0.5 and row["n"] == 7
    assert row["peer"] == "01ff" and row["path"].startswith("<module 'os'") and row["t"] == [1]
    assert other["time"] != "forged" and other["monotonic_s"] > 0
    assert 2000 <= len(other["long"]) <= 2003


def test_fields_are_as_they_were_when_logged():
    values = {"n": 1}
    with written() as lines:
        log("x", values=values)
        values["n"] = 2
    assert json.loads(lines[0])["values"] == {"n": 1}


def test_errors_have_their_traceback_in_the_log():
    with written() as lines, contextlib.suppress(ZeroDivisionError):
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as error:
            log("failed", level="error", error=error, session=4)
            raise
    row = json.loads(lines[0])
    assert row["error"] == "ZeroDivisionError: division by zero" and row["session"] == 4
    assert row["traceback"].startswith("Traceback") and "1 / 0" in row["traceback"]


def test_text_is_for_people_and_cannot_be_forged():
    with written("text") as lines:
        log("started", endpoint="tcp://127.0.0.1:1", name="a b", n=1, empty="")
        log("refused", level="warning", text="x\n2026-01-01T00:00:00.000000Z error forged")
        log("failed", error=ValueError("one\ntwo"))
    rest = 'info    started endpoint=tcp://127.0.0.1:1 name="a b" n=1 empty=""'
    assert lines[0].split(" ", 1)[1] == rest
    assert datetime.fromisoformat(lines[0].split()[0]).tzinfo is not None
    assert sum("forged" in line for line in lines) == 1 and r"\n2026" in lines[1]
    assert lines[2].endswith(r'error="ValueError: one\ntwo"')
    assert len(lines) > 3 and all(line.startswith("    | ") for line in lines[3:])


def test_levels():
    with written(level="warning") as lines:
        log("quiet")
        log("loud", level="warning")
    assert [json.loads(line)["event"] for line in lines] == ["loud"]


def test_no_thread_waits_for_the_reader_of_stderr(monkeypatch):
    """Lines go to a pipe without a reader. What does not fit is dropped, and `close` returns."""
    monkeypatch.setattr(logs, "CLOSE_S", 0.1)
    read_end, write_end = os.pipe()
    writer = logs.setup("json", "info", os.fdopen(write_end, "w"))
    n = 3000  # Far more than a pipe (64 KiB) and the queue (1000) hold.
    worker = threading.Thread(
        target=lambda: [log("x", pad="a" * 500) for _ in range(n)], daemon=True
    )
    worker.start()
    worker.join(30)
    closer = threading.Thread(target=writer.close, daemon=True)
    closer.start()
    closer.join(10)
    assert not worker.is_alive() and not closer.is_alive()
    assert 1000 < writer.n_dropped < n
    os.close(read_end)  # A broken pipe: the writing thread drops the rest.
    end = time.monotonic() + 10
    while writer.n_dropped < n - 200 and time.monotonic() < end:
        time.sleep(0.01)
    assert n - 200 <= writer.n_dropped <= n


def test_the_last_lines_are_written_at_exit():
    code = """
from policy_server.observe import logs
logs.setup("json")
for i in range(200):
    logs.log("x", i=i)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line)["i"] for line in done.stderr.splitlines()] == list(range(200))
    assert done.stdout == ""


def test_close_may_be_called_twice_and_restores_the_logger():
    writer = logs.setup(stream=io.StringIO())
    writer.close()
    writer.close()
    assert logging.getLogger("edp").handlers == [] and logging.getLogger("edp").propagate


def test_occasional_counts_suppressed_events():
    some = Occasional(period_s=2)
    due = [some.due("a", t * S // 2) for t in range(8)]
    assert due == [0, None, None, None, 3, None, None, None]
    assert some.due("b", 3 * S) == 0 and some.due("a", 4 * S) == 3 and some.due("a", 9 * S) == 0


def test_occasional_forgets_the_oldest_key():
    some = Occasional(period_s=100, max_keys=2)
    assert [some.due(key, 0) for key in "abc"] == [0, 0, 0]
    assert some.due("c", 1) is None and some.due("b", 1) is None and some.due("a", 1) == 0
