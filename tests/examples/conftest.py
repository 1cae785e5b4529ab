"""The C++ test program, compiled once, and a server of the tiny policy for it."""

import subprocess
from pathlib import Path

import pytest
from support.cpp_client import compiled
from support.serving import running_server


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    source = Path(__file__).with_name("test_client.cpp")
    return compiled(source, tmp_path_factory.mktemp("cpp") / "test_client")


@pytest.fixture(scope="module")
def served(bundle_path):
    with running_server(bundle_path) as server:
        yield server.endpoint


@pytest.fixture
def run(program):
    """Runs a command of test_client.cpp and returns the lines that it printed."""

    def run(*arguments):
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run
