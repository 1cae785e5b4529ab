"""Where a server may listen: real server processes, real sockets, and names of places."""

import numpy as np
import pytest

from policy_server.control.client import PolicyClient
from policy_server.serving.server import PolicyServer
from policy_server.transport.address import ServerError, check_bind

OBS = np.float32([0.1, -0.2, 0.01])


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


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5599",
        "tcp://*:5599",
        "tcp://192.168.1.2:1",
        "tcp://[::]:1",
        "tcp://eth0:1",
        "tcp://:1",
    ],
)
def test_only_loopback_is_bound(bundle_path, endpoint):
    with pytest.raises(ServerError, match="only loopback is allowed"):
        PolicyServer(bundle_path, endpoint, "cpu")


def test_loopback_in_its_spellings_is_allowed(tmp_path):
    own = f"ipc://{tmp_path}/socket"
    for endpoint in (
        "tcp://127.0.0.1:1",
        "tcp://127.1.2.3:*",
        "tcp://localhost:1",
        "tcp://[::1]:1",
        own,
    ):
        check_bind(endpoint)


def test_an_ipc_path_must_be_one():
    with pytest.raises(ServerError, match="expected a path"):
        check_bind("ipc://*")


@pytest.mark.parametrize("endpoint", ["5599", "http://127.0.0.1:1", "tcp://", "inproc://x"])
def test_other_endpoints_are_refused(endpoint):
    with pytest.raises(ServerError, match=r"expected tcp://127\.0\.0\.1:PORT or ipc"):
        check_bind(endpoint)
