import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import policy_server

HEAVY = {"torch", "mujoco", "gymnasium", "onnxruntime", "scipy", "matplotlib"}


def loaded_by(code):
    """Returns which of our own and of the heavy modules `code` loads in a new interpreter."""
    show = "import sys; print(*sys.modules)"
    command = [sys.executable, "-c", f"{code}\n{show}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {name for name in out if name.split(".")[0] in {*HEAVY, "zmq", "numpy", "policy_server"}}


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import policy_server") == {
        "policy_server",
        "policy_server.contract",
        "policy_server.contract.doors",
        "policy_server.contract.doors.lazy",
        "policy_server.contract.onnx_import",
    }


def test_a_robots_side_loads_nothing_heavy():
    names = loaded_by("from policy_server import PolicyClient, Bundle, ControlConfig, run")
    assert "policy_server.control.client" in names
    assert not {name for name in names if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("name", policy_server.__all__)
def test_every_public_name_is_there_and_documented(name):
    part = getattr(policy_server, name)
    assert part.__name__ == name and inspect.getdoc(part)
    assert f"    {name}: " in policy_server.__doc__


def test_every_name_is_said_to_type_checkers_and_shown_by_dir():
    tree = ast.parse(Path(policy_server.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for line in block.body for alias in line.names}
    assert typed == set(policy_server.__all__)
    assert typed <= set(dir(policy_server))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'policy_server' has no attribute 'Client'"):
        _ = policy_server.Client
    with pytest.raises(ImportError, match="Client"):
        from policy_server import Client  # noqa: F401
