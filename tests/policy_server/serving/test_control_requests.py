"""Answers to control requests: their fields, as docs/wire.md promises, and their numbers."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import PolicyError
from policy_server.control.client import PolicyClient
from policy_server.serving.server import PolicyServer

OBS = np.float32([0.1, -0.2, 0.01])
WIRE = (Path(__file__).parents[3] / "docs/wire.md").read_text()
SUMMARY = {"n", "mean_us", "max_us", "p50_us", "p99_us", "p999_us"}


def promised(op):
    """Returns the text of docs/wire.md about the answer to an op."""
    row = re.search(rf"^\| `{op}` \|[^|]*\|(.*)\|$", WIRE, re.MULTILINE)
    assert row, f"docs/wire.md has no row for {op}"
    return re.sub(r"\([^)]*\)", "", row[1])


def turn_until(server, thread):
    """Serves in this thread until another thread ends."""
    until = time.monotonic() + 20
    while thread.is_alive():
        server._turn(wait=True)
        assert time.monotonic() < until


@pytest.fixture
def server(bundle_path):
    """A server whose loop turns only when a test turns it."""
    server = PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu")
    yield server
    server.close()


@pytest.fixture
def ask(server):
    """Returns what a function of the client returns while the server turns."""
    client = PolicyClient(server.endpoint, 20)

    def ask(work):
        answers = []
        thread = threading.Thread(target=lambda: answers.append(work(client)), daemon=True)
        thread.start()
        turn_until(server, thread)
        return answers[0]

    yield ask
    client.close()


def test_stats_count_every_request(start_server, bundle_path):
    with PolicyClient(start_server(bundle_path).endpoint, 20) as client:
        start_s = time.monotonic()
        before = client.stats()
        for _ in range(5):
            client.act(OBS)
        for _ in range(2):
            with pytest.raises(PolicyError, match="NOT_FINITE"):
                client.act(OBS * np.nan)
        stats = client.stats()
        elapsed_s = time.monotonic() - start_s
        ordinal = client.hello()["session"]
    assert before["counts"] == {} and before["server_us"]["n"] == 0
    # The first stats and the hello of the first act are OK too.
    assert stats["counts"] == {"OK": 5 + 1 + 1, "NOT_FINITE": 2}
    assert stats["n_batches"]["1"] == 5 and stats["n_sessions"] == 1 and stats["n_queued"] == 0
    assert 0 < stats["uptime_s"] - before["uptime_s"] < elapsed_s
    for name in ("queue_us", "inference_us", "server_us"):
        row = stats[name]
        assert row["n"] == 5 and row["p50_us"] <= row["p99_us"] <= row["p999_us"] == row["max_us"]
        assert row["mean_us"] <= row["max_us"]
    (mine,) = stats["sessions"]
    assert (mine["session"], mine["n_acts"], mine["n_late"], mine["n_errors"]) == (ordinal, 5, 0, 2)
    assert 0 <= mine["idle_s"] < elapsed_s and mine["hz"] > 4 / elapsed_s
    assert mine["p50_us"] <= mine["p99_us"] <= stats["server_us"]["max_us"]


def test_stats_have_the_fields_of_the_wires_description(served):
    with PolicyClient(served.endpoint, 20) as client:
        client.act(OBS)
        stats = client.stats()
    plain, times, sessions = promised("stats").split(";")
    named = set(re.findall(r"\w+", plain + times.split(":")[0]))
    assert stats.keys() == named | {"sessions"}
    assert stats["server_us"].keys() == set(re.findall(r"\w+", times.split(":")[1])) == SUMMARY
    rows = sessions.split("heard of last,")[1]
    assert stats["sessions"][0].keys() == set(re.findall(r"\w+", rows))


def test_hello_and_health_have_the_fields_of_the_wires_description(served, bundle_path):
    with PolicyClient(served.endpoint, 20) as client:
        hello = client.hello()
        health = client.health()
    assert hello.keys() == set(re.findall(r"\w+", promised("hello")))
    health_text = promised("health").replace('"ok" or "draining"', "")
    assert health.keys() == set(re.findall(r"\w+", health_text))
    assert health.pop("uptime_s") > 0
    bundle_hash = Bundle.load(bundle_path).hash
    assert health == {"status": "ok", "ready": True, "reloading": False, "bundle_hash": bundle_hash}


def test_health_while_reloading(server, ask):
    """Robots are served meanwhile, so the server stays ready."""
    gate = threading.Event()
    load = server.requests._reloader._load
    server.requests._reloader._load = lambda: (gate.wait(20), load())[1]
    ask(lambda client: client.hello())
    server.requests.ask_reload()
    server._turn(wait=False)
    health = ask(lambda client: client.health())
    assert (health["status"], health["ready"], health["reloading"]) == ("ok", True, True)
    assert ask(lambda client: client.act(OBS)).shape == (2, 2)
    gate.set()
    until = time.monotonic() + 20
    while ask(lambda client: client.health())["reloading"]:
        assert time.monotonic() < until
    assert ask(lambda client: client.stats())["reloads"] == {"ok": 1}


def test_health_while_draining(server, ask):
    ask(lambda client: client.hello())
    server.state.draining = True
    health = ask(lambda client: client.health())
    assert (health["status"], health["ready"], health["reloading"]) == ("draining", False, False)
