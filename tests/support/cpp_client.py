"""Compiles programs with the C++ client, and reads the actions that they print."""

import ctypes.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zmq

CLIENT = Path(__file__).parents[2] / "examples" / "cpp_client"
COMPILER = shutil.which("c++") or shutil.which("g++")
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
