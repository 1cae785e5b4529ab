"""Host names are looked up within the caller's deadline, also where no name server answers."""

import contextlib
import socket
import threading

import numpy as np
import pytest

from policy_server.bench.load.channel import SocketChannel
from policy_server.contract.errors import PolicyTimeout, ServerError
from policy_server.control.client import PolicyClient
from policy_server.observe import monitor
from policy_server.transport import names
from policy_server.transport.keys import ClientKeys, make_keys

LONG_S = 30
OBS = np.zeros(3, np.float32)
NAME = "robot.example"


class NameServer:
    """A fake of `socket.getaddrinfo` that answers names when it is told to."""

    def __init__(self, rows=()):
        self.rows = list(rows)
        self.answers = threading.Event()
        self.asked = []
        self.real = socket.getaddrinfo

    def __call__(self, host, port, *args, flags=0, **options):
        if names.is_literal(host):
            return self.real(host, port, *args, flags=flags, **options)
        self.asked.append(host)
        self.answers.wait(LONG_S)
        if not self.rows:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, port))
            for each in self.rows
        ]


@pytest.fixture
def name_server(monkeypatch):
    fake = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", fake)
    yield fake
    fake.answers.set()


def some_keys(tmp_path):
    make_keys(tmp_path / "keys", "r1")
    return ClientKeys.load(tmp_path / "keys" / "private" / "r1.key_secret")


@pytest.mark.parametrize("with_keys", [False, True])
def test_a_silent_name_server_costs_no_more_than_the_deadline(name_server, tmp_path, with_keys):
    keys = some_keys(tmp_path) if with_keys else None
    with PolicyClient(f"tcp://{NAME}:5599", timeout_s=0.05, keys=keys) as client:
        for ask in (client.hello, client.health, lambda: client.act(OBS, deadline_s=0.05)):
            with pytest.raises(PolicyTimeout, match="look-up of the host's name"):
                ask()
    assert not name_server.answers.is_set()
    assert name_server.asked == [NAME]  # One thread waits, however often the client asks.


@pytest.mark.parametrize("with_keys", [False, True])
def test_an_unknown_name_is_said(name_server, tmp_path, with_keys):
    name_server.answers.set()
    keys = some_keys(tmp_path) if with_keys else None
    client = PolicyClient(f"tcp://{NAME}:5599", timeout_s=0.2, keys=keys)
    with client, pytest.raises(PolicyTimeout, match=f"'{NAME}': Name or service not known"):
        client.hello()


def test_a_name_is_found_late_and_its_next_address_is_tried(name_server, served):
    """The first address refuses. The look-up ends long after the first deadline."""
    name_server.rows = ["127.0.0.9", "127.0.0.1"]
    port = served.endpoint.rpartition(":")[2]
    with PolicyClient(f"tcp://{NAME}:{port}", timeout_s=LONG_S) as client:
        with pytest.raises(PolicyTimeout):
            client.hello(timeout_s=0.02)
        name_server.answers.set()
        assert client.hello()["manifest"]["name"] == "tiny"


def test_the_load_generator_waits_no_longer_either(name_server, served):
    port = served.endpoint.rpartition(":")[2]
    arguments = {"n_clients": 2, "payload": b"", "reply_bytes": 4}
    with pytest.raises(OSError, match=f"look-up of '{NAME}' in 0.05 s"):
        SocketChannel(f"tcp://{NAME}:{port}", timeout_s=0.05, **arguments)
    name_server.rows = ["127.0.0.1"]
    name_server.answers.set()
    channel = SocketChannel(f"tcp://{NAME}:{port}", timeout_s=LONG_S, **arguments)
    channel.close()


def test_metrics_wait_for_no_name(name_server, monkeypatch):
    monkeypatch.setattr(monitor, "LOOK_UP_S", 0.05)
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("looked up this host's name"))
    with pytest.raises(ServerError, match=f"look-up of '{NAME}'"):
        monitor.Monitor(f"{NAME}:0")
    with contextlib.closing(monitor.Monitor("0.0.0.0:0")) as pages:
        assert pages.address.startswith("0.0.0.0:")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ((socket.AF_INET, ("10.0.0.1", 5)), "tcp://10.0.0.1:5"),
        ((socket.AF_INET6, ("::1", 5, 0, 0)), "tcp://[::1]:5"),
        ((socket.AF_INET6, ("fe80::1", 5, 0, 3)), "tcp://[fe80::1%3]:5"),
    ],
)
def test_addresses_in_figures(address, text):
    assert names.tcp_text(address) == text


def test_ipv4_comes_first(name_server):
    name_server.rows = ["::1", "127.0.0.1"]
    name_server.answers.set()
    found = names.look_up(NAME, 1, LONG_S)
    assert [family for family, _ in found] == [socket.AF_INET, socket.AF_INET6]


def test_text_that_is_no_name_is_an_error_like_others():
    with pytest.raises(OSError, match=r"host .a\.\.b.: no host name"):
        names.look_up("a..b", 1, LONG_S)
