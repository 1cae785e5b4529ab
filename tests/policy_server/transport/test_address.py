"""Endpoints: how they are parsed, and where a server may listen."""

import contextlib
import socket

import numpy as np
import pytest

from policy_server.contract.errors import ServerError
from policy_server.control.client import PolicyClient
from policy_server.serving.server import PolicyServer
from policy_server.transport.address import address_of, check_bind, open_listener, tcp_endpoint

OBS = np.float32([0.1, -0.2, 0.01])
ELSEWHERE = [
    "tcp://0.0.0.0:5599",
    "tcp://*:5599",
    "tcp://192.168.1.2:1",
    "tcp://[::]:1",
    "tcp://eth0:1",
    "tcp://:1",
]


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp://localhost:5599", (socket.AF_INET, ("localhost", 5599))),
        ("tcp://[::1]:1", (socket.AF_INET6, ("::1", 1))),
        ("tcp://[fe80::1%1]:1", (socket.AF_INET6, ("fe80::1%1", 1))),
        ("ipc:///run/policy", (socket.AF_UNIX, "/run/policy")),
        ("ipc://@name", (socket.AF_UNIX, "\0name")),
    ],
)
def test_addresses(endpoint, address):
    assert address_of(endpoint) == address


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "tcp://a",
        "tcp://:1",
        "tcp://a:-1",
        "tcp://a:65536",
        "ipc://",
        "a:1",
        "tcp://::1:1",
        "tcp://[::1:1",
        "tcp://[]:1",
    ],
)
def test_other_texts_are_no_addresses(endpoint):
    with pytest.raises(ValueError, match="expected tcp://HOST:PORT or ipc://PATH"):
        address_of(endpoint)


def test_a_listeners_endpoint_has_its_real_port():
    with contextlib.closing(open_listener("tcp://127.0.0.1:*")) as listener:
        endpoint = tcp_endpoint(listener)
        assert endpoint == f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        socket.create_connection(address_of(endpoint)[1], 5).close()


def test_ipc_in_use_is_refused_and_a_dead_servers_file_is_not(start_server, bundle_path, tmp_path):
    endpoint = f"ipc://{tmp_path}/s"
    first = start_server(bundle_path, endpoint)
    with pytest.raises(ServerError, match="in use by another process"):
        PolicyServer(bundle_path, endpoint, "cpu")
    with PolicyClient(endpoint, 10) as client:
        assert client.act(OBS).shape == (2, 2)
    first.process.kill()
    first.process.wait()
    assert start_server(bundle_path, endpoint).endpoint == endpoint


def test_ipc_does_not_replace_a_file(tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(ServerError, match="not a socket"):
        check_bind(f"ipc://{tmp_path}/precious")


@pytest.mark.parametrize("endpoint", ELSEWHERE)
def test_without_keys_a_server_binds_loopback_only(bundle_path, endpoint):
    with pytest.raises(ServerError, match=r"only loopback is allowed.*edp keys new DIR.*--keys"):
        PolicyServer(bundle_path, endpoint, "cpu")


@pytest.mark.parametrize("endpoint", [*ELSEWHERE, "tcp://127.0.0.1:1"])
def test_with_keys_a_server_may_bind_anywhere(endpoint):
    check_bind(endpoint, has_keys=True)


def test_all_spellings_of_loopback_are_allowed(tmp_path):
    for address in ("127.0.0.1:1", "127.1.2.3:*", "localhost:1", "[::1]:1"):
        check_bind(f"tcp://{address}")
    check_bind(f"ipc://{tmp_path}/socket")


def test_ipc_needs_a_path():
    with pytest.raises(ServerError, match="expected a path"):
        check_bind("ipc://*")


@pytest.mark.parametrize("has_keys", [False, True])
@pytest.mark.parametrize("endpoint", ["5599", "http://127.0.0.1:1", "tcp://", "inproc://x"])
def test_other_endpoints_are_refused(endpoint, has_keys):
    with pytest.raises(ServerError, match=r"expected tcp://127\.0\.0\.1:PORT or ipc"):
        check_bind(endpoint, has_keys)


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
def test_a_server_and_a_client_on_an_address_of_any_kind(start_server, bundle_path, host):
    server = start_server(bundle_path, f"tcp://{host}:*")
    port = server.endpoint.rpartition(":")[2]
    with PolicyClient(f"tcp://{host}:{port}", timeout_s=10) as client:
        assert client.act(OBS).shape == (2, 2)
