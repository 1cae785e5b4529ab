"""Names that a terminal cannot show, in real processes with an ASCII terminal."""

import socket
import subprocess
import urllib.request

import pytest
from support.serving import SERVE, running_server

from policy_server.control.client import PolicyClient

NAMES = {
    "colour": "\x1b[31mred\x07\nserving everything",
    "umlaut": "Gr\u00fc\u00dfer \u673a\u68b0\u81c2",
    "half": "half \ud800 of one",
    "long": "x" * 5000,
}


@pytest.mark.parametrize("what", NAMES)
def test_any_name_is_served_on_any_terminal(tiny, tmp_path, monkeypatch, what):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    name = NAMES[what]
    path = tiny.save(tmp_path / "b", name=name).path
    port = _free_port()
    options = ("--metrics", f"127.0.0.1:{port}")
    with running_server(path, options=options) as server:
        assert server.line.isascii() and server.line.rstrip("\n").isprintable()
        assert server.line.count(" on tcp://127.0.0.1:") == 1 and len(server.line) < 300
        with PolicyClient(server.endpoint, timeout_s=20) as client:
            assert client.manifest.name == name
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
            assert "edp_policy_info" in page.read().decode()


def test_an_error_shows_no_control_characters(tiny, tmp_path):
    folder = tmp_path / "no\x1b[31m \u00fc bundle"
    command = [*SERVE, str(folder)]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == 1
    assert b"\\x1b[31m" in result.stderr and b"\x1b" not in result.stderr
    assert b"Traceback" not in result.stderr


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
