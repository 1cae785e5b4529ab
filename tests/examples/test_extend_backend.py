"""The example backend works from a folder outside the repository, and nothing else is touched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policy_server.contract.errors import BackendError
from policy_server.runtime.base import load_backend

EXAMPLE = Path(__file__).parents[2] / "examples" / "extend" / "numpy_backend.py"
NAME = "my_backend:NumpyBackend"
NO_ONNX_RUNTIME = """
import sys
sys.modules["onnxruntime"] = None
from edp_robot.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a user's own that holds the example as my_backend.py; the current folder."""
    shutil.copy(EXAMPLE, tmp_path / "my_backend.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_backend", None)


def edp(*arguments):
    command = [sys.executable, "-c", NO_ONNX_RUNTIME, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_it_computes_what_onnx_runtime_computes(folder, bundle_path):
    numpy = load_backend(bundle_path, backend=NAME)
    onnx_runtime = load_backend(bundle_path, "cpu")
    golden = numpy.golden
    assert numpy.self_test() < 1e-5
    np.testing.assert_allclose(
        numpy.act(golden["obs"], golden["noise"]),
        onnx_runtime.act(golden["obs"], golden["noise"]),
        atol=1e-6,
    )


def test_it_is_held_to_the_golden_vectors_and_to_the_provider(folder, tiny):
    made = tiny.save(folder / "b", onnx_bytes=tiny.onnx_bytes(tiny.W * np.float32(1.1)))
    with pytest.raises(BackendError, match="self-test failed on cpu"):
        load_backend(made, backend=NAME).self_test()
    with pytest.raises(BackendError, match="runs on cpu"):
        load_backend(made, "cuda", backend=NAME)


def test_the_command_line_takes_it_without_onnx_runtime(folder, bundle_path):
    done = edp("bench", "latency", bundle_path, "--backend", NAME, "--n", 20, "--json", "out.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "out.json").read_text())
    assert result["provider"] == "cpu" and result["self_test_error"] < 1e-5
    refused = edp("bench", "latency", bundle_path, "--backend", "my_backend:Numpy")
    assert refused.returncode == 1 and "it has: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_it_is_short(folder):
    assert len(EXAMPLE.read_text().splitlines()) < 100
