"""The C++ client, compiled once, and servers of the tiny policy for it."""

import ctypes.util
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zmq
from support import serving

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "examples/cpp_client"
COMPILER = shutil.which("c++") or shutil.which("g++")
SHARED = ("OBS_DIM", "ACT_DIM", "HORIZON", "running_server", "read_line")
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-O2"]


def link_flags():
    """Returns the flags that link pyzmq's libzmq, else the system's; [] where there is neither."""
    shipped = sorted((Path(zmq.__file__).parents[1] / "pyzmq.libs").glob("libzmq-*.so*"))
    if shipped:
        return [str(shipped[0]), f"-Wl,-rpath,{shipped[0].parent}"]
    return ["-lzmq"] if ctypes.util.find_library("zmq") else []


def compiled(source, path):
    """Returns the path of the compiled `source`; skips without a compiler or libzmq."""
    if not COMPILER or not link_flags():
        pytest.skip("needs a C++ compiler and libzmq")
    command = [COMPILER, *FLAGS, f"-I{CLIENT}", str(source), "-o", str(path), *link_flags()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(path)


def values(lines):
    """Returns the actions in printed lines: a sequence number, then hex floats."""
    rows = [[float.fromhex(word) for word in line.split()[1:]] for line in lines]
    return np.array(rows, np.float32)


@pytest.fixture(scope="session")
def cpp():
    """Holds the client's folder, functions, and the sizes and servers of the tiny policy."""
    return SimpleNamespace(
        folder=CLIENT,
        compiled=compiled,
        link_flags=link_flags,
        values=values,
        **{name: getattr(serving, name) for name in SHARED},
    )


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    source = Path(__file__).with_name("test_client.cpp")
    return compiled(source, tmp_path_factory.mktemp("cpp") / "test_client")


@pytest.fixture(scope="module")
def served(bundle_path):
    with serving.running_server(bundle_path) as server:
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
