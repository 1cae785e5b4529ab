"""Signals to a server that still loads its bundle, and files that servers leave or take over."""

import contextlib
import os
import signal
import socket
import subprocess

import numpy as np
import pytest
from support.checked_client import until
from support.serving import SERVE, read_line

from policy_server.contract.errors import ServerError
from policy_server.control.client import PolicyClient
from policy_server.transport.address import check_bind, open_listener
from policy_server.transport.curve_server import CurveFront
from policy_server.transport.front import listen
from policy_server.transport.keys import ServerKeys, make_keys
from policy_server.transport.plain_server import PlainFront

SLOW_BACKEND = """
import os, pathlib, time
from policy_server.runtime.onnxruntime import load_onnx

def slow(bundle, options):
    folder = pathlib.Path(os.environ["SLOW_FOLDER"])
    (folder / "loading").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return load_onnx(bundle, options)
"""
OBS = np.zeros(3, np.float32)


@contextlib.contextmanager
def loading_server(tmp_path, bundle_path):
    """Yields the process of a server that loads until the file `go` is there."""
    (tmp_path / "slow_backend.py").write_text(SLOW_BACKEND)
    paths = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "SLOW_FOLDER": str(tmp_path), "PYTHONPATH": paths}
    where = ("--bind", f"ipc://{tmp_path}/s", "--backend", "slow_backend:slow")
    process = subprocess.Popen(
        [*SERVE, str(bundle_path), *where],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until((tmp_path / "loading").exists)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sighup_while_loading_loads_again_afterwards(tmp_path, bundle_path):
    with loading_server(tmp_path, bundle_path) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        assert str(read_line(process)).startswith("serving ")
        with PolicyClient(f"ipc://{tmp_path}/s", timeout_s=10) as client:
            until(lambda: client.stats()["reloads"].get("ok") == 1)
            assert client.act(OBS).shape == (2, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_a_server_that_loads_ends_at_once(tmp_path, bundle_path, number, status):
    with loading_server(tmp_path, bundle_path) as process:
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert said == "" and "Traceback" not in errors
    assert not (tmp_path / "s").exists()


def fronts(tmp_path):
    """Returns a function for each kind of front, which listens on one ipc path."""
    make_keys(tmp_path / "keys", "r1")
    keys = ServerKeys.load(tmp_path / "keys")
    endpoint = f"ipc://{tmp_path}/s"
    return endpoint, (lambda: listen(endpoint), lambda: listen(endpoint, keys))


@pytest.mark.parametrize("old", [0, 1])
@pytest.mark.parametrize("new", [0, 1])
def test_a_socket_file_that_another_server_made_stays(tmp_path, old, new):
    """The first server's file is replaced while it listens, as by an operator's `rm`."""
    endpoint, make = fronts(tmp_path)
    first = make[old]()
    (tmp_path / "s").unlink()
    second = make[new]()
    first.close()
    assert (tmp_path / "s").exists()
    with pytest.raises(ServerError, match="in use"):
        check_bind(endpoint)
    second.close()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("kind", [0, 1])
def test_a_live_servers_file_is_not_taken_and_a_dead_ones_is(tmp_path, kind):
    """Two servers start together: both have checked the path, and one listens first."""
    _endpoint, make = fronts(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "s"))
    front = make[kind]()
    for late in make:
        with pytest.raises(ServerError, match="in use"):
            late()
    assert (tmp_path / "s").is_socket()
    front.close()


def test_a_server_that_does_not_accept_just_now_is_alive(tmp_path):
    endpoint, _ = fronts(tmp_path)
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        for _ in range(3):
            one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            one.setblocking(False)
            one.connect_ex(str(tmp_path / "s"))
        with pytest.raises(ServerError, match="in use"):
            open_listener(endpoint)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("thing", ["file", "folder", "link", "broken link"])
def test_what_is_no_socket_is_never_deleted(tmp_path, kind, thing):
    path = tmp_path / "s"
    (tmp_path / "target").write_text("precious")
    makers = {
        "file": lambda: path.write_text("precious"),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(tmp_path / "target"),
        "broken link": lambda: path.symlink_to(tmp_path / "nothing"),
    }
    makers[thing]()
    _, make = fronts(tmp_path)
    with pytest.raises(ServerError, match="not a socket"):
        make[kind]()
    assert os.path.lexists(path) and (tmp_path / "target").read_text() == "precious"


def test_both_kinds_are_tested(tmp_path):
    _, make = fronts(tmp_path)
    for one, kind in zip(make, (PlainFront, CurveFront), strict=True):
        front = one()
        assert isinstance(front, kind)
        front.close()
