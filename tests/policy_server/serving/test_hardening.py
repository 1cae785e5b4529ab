"""Real servers under kills, stops, jumping clocks and peers that hang."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.checked_client import checked_clients, ended_well, until

from policy_server.contract import wire
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.wire import Header, Kind, Status
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.serving import server as servers
from policy_server.serving.server import PolicyServer
from policy_server.transport import zmtp
from policy_server.transport.link import connect

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from soaking.attacker import Connection

OBS = np.float32([0.1, -0.2, 0.01])
ASK = """
import sys
import numpy as np
from policy_server.control.client import PolicyClient
client = PolicyClient(sys.argv[1], 10)
client.hello()
print("ready", flush=True)
while True:
    client.send(np.zeros(3))
    client.receive(0.0)
"""


@pytest.fixture
def checked(bundle_path):
    """Makes clients whose answers are checked."""
    with checked_clients(bundle_path) as make:
        yield make


@contextlib.contextmanager
def raw_link(endpoint):
    link = connect(endpoint)
    try:
        yield link
    finally:
        link.close()


def ask(link, header, payload=b"", timeout_s=10):
    deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
    assert link.send(wire.encode(header, payload), deadline_ns)
    data = link.receive(deadline_ns)
    assert data is not None
    return wire.decode(data)


def test_a_killed_server_costs_time_and_no_wrong_answer(
    start_server, bundle_path, checked, tmp_path
):
    endpoint = f"ipc://{tmp_path}/s"
    rng = random.Random(4)
    server = start_server(bundle_path, endpoint)
    good = checked(endpoint)
    for seed in (7, 8):
        killer = threading.Timer(0.02 + 0.05 * rng.random(), server.process.kill)
        killer.start()
        with pytest.raises(PolicyTimeout):
            while True:  # The kill comes in the middle of a request.
                good.act(deadline_s=0.05)
        killer.join()
        server.process.wait()
        server = start_server(bundle_path, endpoint)
        good.reset(seed)
        for _ in range(20):
            good.act()
    assert ended_well(server.process)


def test_killed_clients_leave_nothing_behind(start_server, bundle_path, checked):
    server = start_server(bundle_path)
    rng = random.Random(5)
    good = checked(server.endpoint)
    files = Path(f"/proc/{server.process.pid}/fd")
    n_files = len(list(files.iterdir()))
    command = [sys.executable, "-c", ASK, server.endpoint]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout.readline() == b"ready\n"
        assert len(list(files.iterdir())) == n_files + 2
        for other in others:
            for _ in range(rng.randrange(20, 80)):
                good.act()
            other.kill()
    finally:
        for other in others:
            other.kill()
            other.communicate()
    until(lambda: len(list(files.iterdir())) == n_files)
    for _ in range(20):
        good.act()
    assert ended_well(server.process)


def test_late_answers_of_a_stopped_server_are_dropped(start_server, bundle_path):
    server = start_server(bundle_path)
    old = OBS
    new = OBS + np.float32(0.5)
    with PolicyClient(server.endpoint, 10) as client:
        client.hello()
        client.reset(3)
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                with pytest.raises(PolicyTimeout):
                    client.act(old, deadline_s=0.03)
            start_s = time.monotonic()
            with PolicyClient(server.endpoint, 10) as fresh, pytest.raises(PolicyTimeout):
                fresh.act(old, deadline_s=0.03)  # It says hello first.
            assert time.monotonic() - start_s < 5
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        answer = client.act(new)
    possible = []  # The server may have drawn noise for some of the old observations.
    local = LocalPolicy(bundle_path, "cpu")
    for n_before in range(4):
        local.reset(3)
        possible.append([local.act(new).tobytes() for _ in range(n_before + 1)][-1])
    assert answer.tobytes() in possible


@pytest.mark.parametrize("budget_us", [0, 1, 10**6, 2**32 - 1])
def test_a_clients_clock_may_say_anything(served, budget_us):
    with raw_link(served.endpoint) as link:
        for k, stamp_ns in enumerate((0, -1, -(2**63), 2**63 - 1, time.time_ns(), 12345), 1):
            header, payload = ask(
                link, Header(Kind.ACT, 0, k, stamp_ns, budget_us), wire.float_bytes(OBS)
            )
            assert header.sequence == k
            if budget_us == 1 and header.kind == Kind.ERROR:
                assert header.status == Status.LATE
            else:
                assert (header.kind, header.client_time_ns) == (Kind.ACT_REPLY, stamp_ns)
                assert len(payload) == 16
                assert header.server_us < 5_000_000


def test_the_wall_clock_may_jump(bundle_path, monkeypatch):
    """Server and client under a wall clock that jumps at every reading."""
    rng = random.Random(1)
    real = time.time
    monkeypatch.setattr(servers.time, "time", lambda: real() + rng.uniform(-1e8, 1e8))
    monkeypatch.setattr(
        servers.time, "time_ns", lambda: int((real() + rng.uniform(-1e8, 1e8)) * 1e9)
    )
    server = PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with PolicyClient(server.endpoint, 5) as client:
            for _ in range(100):
                client.act(OBS, deadline_s=5)
                assert 0 < client.last_times["server_us"] < 5e6
            counts = client.stats()["counts"]
            health = client.health()
    finally:
        server.stop()
        thread.join(10)
    assert "LATE" not in counts and 0 < health["uptime_s"] < 60


def test_peers_that_hang_or_do_not_read_delay_no_other(start_server, bundle_path, checked):
    server = start_server(bundle_path)
    good = checked(server.endpoint)
    memory = Path(f"/proc/{server.process.pid}/statm")
    before = int(memory.read_text().split()[1])
    greeting = zmtp.greeting()
    ready = zmtp.ready(b"DEALER", b"")
    hello = zmtp.frame(wire.encode(Header(Kind.CONTROL, 0, 1), b'{"op": "hello"}'))
    half = (
        b"",
        greeting[:20],
        greeting,
        greeting + ready[:9],
        greeting + ready,
        greeting + ready + hello[:30],
    )
    with contextlib.ExitStack() as stack:
        unread = greeting + ready + 20_000 * hello  # 30 MB of answers.
        for said in (*half * 8, unread):
            peer = Connection(server.endpoint)
            stack.callback(peer.close)
            peer.send(said)
            good.act(deadline_s=2)

        def answers_were_dropped():
            good.act(2)
            return good.client.stats()["counts"].get("undeliverable", 0) > 10_000

        until(answers_were_dropped)
        n_pages = int(memory.read_text().split()[1]) - before
        grown_mib = n_pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert grown_mib < 10
    assert ended_well(server.process)


def test_errors_do_not_tell_where_they_come_from(served):
    texts = []
    with PolicyClient(served.endpoint, 10) as client:
        for obs in (OBS[:1], OBS * np.nan, np.zeros(1000)):
            with pytest.raises(PolicyError) as caught:
                client.act(obs)
            texts.append(str(caught.value))
        for request in ({"op": "x"}, {"op": "reset", "seed": -1}, {"op": "rollback"}, {"op": None}):
            with pytest.raises(PolicyError) as caught:
                client._control(request)
            texts.append(str(caught.value))
    assert not [text for text in texts if "Traceback" in text or "/" in text or 'File "' in text]
