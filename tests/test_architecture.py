"""The rules of the house: who imports whom, no code in data, small rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"policy_server", "sim", "calibration", "edp_robot"}
MAY_IMPORT = {  # prefixes of our own modules, besides the room itself
    "policy_server": (),
    "sim": (),
    "calibration": ("sim", "policy_server"),
    "edp_robot": ("sim", "policy_server.contract.bundle", "policy_server.contract.manifest"),
}
NEVER = {
    "policy_server": {"torch", "mujoco", "gymnasium", "gymnasium_robotics", "dm_control"},
    "sim": {"torch", "zmq"},
    "calibration": {"torch"},
    "edp_robot": set(),
}
CODE_IN_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
HEAVY = {"torch", "mujoco", "gymnasium", "onnxruntime"}
MAX_FILE, MAX_FUNCTION = 400, 50
FILES = [path for room in sorted(OURS) for path in sorted((ROOT / room).rglob("*.py"))]


def imports(tree: ast.AST, path: str) -> Iterator[tuple[int, str, bool]]:
    """Yields (line, module or module.name, is it inside a function) of every import; '*' for one not literal."""
    lazy = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for statement in (function.body if isinstance(function.body, list) else [function.body])
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for name in imported_names(node, path):
            yield node.lineno, name, node in lazy


def imported_names(node: ast.AST, path: str) -> list[str]:
    """Returns what one node imports, as absolute names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = path.split("/")[: -node.level] if node.level else []
        base = ".".join([*package, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
        "import_module",
        "__import__",
    ):
        literal = node.args and isinstance(node.args[0], ast.Constant)
        return [str(node.args[0].value)] if literal else ["*"]
    return []


def import_faults(source: str, path: str) -> list[str]:
    """Returns the import rules that a file of ours breaks; `path` from the repository's root."""
    room, faults = path.split("/")[0], []
    is_cli = path.startswith("edp_robot/cli/")
    for line, name, lazy in imports(ast.parse(source), path):
        top = name.split(".")[0]
        foreign = top in OURS - {room} and not any(
            f"{name}.".startswith(f"{p}.") for p in MAY_IMPORT[room]
        )
        if is_cli:
            broken = not lazy and (top in OURS - {room} or top in HEAVY or name == "*")
        else:
            broken = foreign or top in NEVER[room] or name == "*"
        if (
            top == "onnxruntime"
            and room == "policy_server"
            and not path.startswith("policy_server/runtime/onnxruntime/")
        ):
            broken = True
        if broken:
            faults.append(f"{path}:{line} imports {name}")
    return faults


def code_in_data(source: str, path: str) -> list[str]:
    """Returns the places where a file could run code that it read: pickles, eval, exec."""
    tree = ast.parse(source)
    faults = [
        f"{path}:{n} {name}"
        for n, name, _ in imports(tree, path)
        if name.split(".")[0] in CODE_IN_DATA
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            faults.append(f"{path}:{node.lineno} {node.func.id}")
        for keyword, bad in (("allow_pickle", True), ("weights_only", False)):
            values = [k.value for k in node.keywords if k.arg == keyword]
            if any(not isinstance(v, ast.Constant) or bool(v.value) == bad for v in values):
                faults.append(f"{path}:{node.lineno} {keyword}={bad}")
    return faults


def too_long(source: str, path: str) -> list[str]:
    """Returns the file and the functions that are too long to be read in one sitting."""
    n = len(source.splitlines())
    faults = [f"{path}: {n} lines, at most {MAX_FILE}"] if n > MAX_FILE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n = (node.end_lineno or node.lineno) - node.lineno + 1
            if n > MAX_FUNCTION:
                faults.append(
                    f"{path}:{node.lineno} {node.name}: {n} lines, at most {MAX_FUNCTION}"
                )
    return faults


@pytest.mark.parametrize("check", [import_faults, code_in_data, too_long])
def test_the_house_keeps_its_rules(check):
    assert len({path.relative_to(ROOT).parts[0] for path in FILES}) == len(OURS)
    faults = [
        f for path in FILES for f in check(path.read_text(), path.relative_to(ROOT).as_posix())
    ]
    assert not faults, "\n" + "\n".join(faults)


LIGHT = [
    "edp_robot",
    "edp_robot.cli",
    "policy_server",
    "policy_server.control.client",
    "policy_server.control.loop",
]


@pytest.mark.parametrize("module", LIGHT)
def test_a_robots_computer_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("policy_server/wire.py", "import torch"),
        ("policy_server/wire.py", "def f():\n    from torch import nn"),
        ("policy_server/wire.py", "import mujoco.rollout as r"),
        ("policy_server/wire.py", "from gymnasium import spaces"),
        ("policy_server/wire.py", "import edp_robot.training.runs"),
        ("policy_server/wire.py", "from sim import arm"),
        ("policy_server/wire.py", "import onnxruntime"),
        ("policy_server/wire.py", "importlib.import_module('torch.nn')"),
        ("policy_server/wire.py", "import_module(name)"),
        ("policy_server/wire.py", "__import__('calibration')"),
        ("policy_server/wire.py", "from .. import edp_robot"),
        ("sim/arm.py", "import torch"),
        ("sim/arm.py", "import zmq.asyncio"),
        ("sim/arm.py", "from calibration.file import load"),
        ("sim/arm.py", "from policy_server import bundle"),
        ("calibration/latency.py", "import os, torch"),
        ("calibration/latency.py", "class A:\n    from edp_robot import config"),
        ("edp_robot/runs.py", "import policy_server"),
        ("edp_robot/runs.py", "from policy_server import client"),
        ("edp_robot/runs.py", "from policy_server import *"),
        ("edp_robot/runs.py", "import policy_server.bundles"),
        ("edp_robot/runs.py", "import calibration"),
        ("edp_robot/stages/pretrain.py", "from ...calibration import file"),
        ("edp_robot/cli/main.py", "from policy_server.control.client import PolicyClient"),
        ("edp_robot/cli/main.py", "import torch"),
        ("edp_robot/cli/main.py", "if True:\n    from sim import registry"),
        ("edp_robot/cli/main.py", "def f(x=__import__('torch')): pass"),
    ],
)
def test_forbidden_imports_are_found(path, source):
    assert len(import_faults(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "policy_server/server.py",
            "import zmq\nfrom policy_server import wire\nfrom . import stats\nimport simplejson",
        ),
        ("policy_server/runtime/onnxruntime/sessions.py", "def f():\n    import onnxruntime"),
        (
            "sim/arm.py",
            "import mujoco\nfrom sim.core.spec import TaskSpec\nfrom .vec import unit_box",
        ),
        (
            "calibration/latency.py",
            "import sim.tasks.arm\ndef f():\n    from policy_server.control.loop import wait_until",
        ),
        (
            "edp_robot/stages/export.py",
            "import torch\nfrom policy_server.contract.bundle import Bundle\nfrom ..rl import iql",
        ),
        (
            "edp_robot/stages/export.py",
            "from policy_server import bundle, manifest\nimport policy_server.contract.bundle",
        ),
        (
            "edp_robot/cli/main.py",
            "import tyro\nfrom . import doctor\ndef f():\n    import calibration, torch",
        ),
        ("edp_robot/cli/main.py", "def f(name):\n    import_module(f'policy_server.{name}')"),
    ],
)
def test_allowed_imports_pass(path, source):
    assert import_faults(source, path) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import dumps",
        "eval('1')",
        "def f():\n    exec(text)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "torch.load(f, weights_only=False)",
    ],
)
def test_code_in_data_is_found(source):
    assert len(code_in_data(source, "sim/arm.py")) == 1


def test_harmless_code_passes():
    source = "model.eval()\nnp.load(f, allow_pickle=False)\ntorch.load(f, weights_only=True)\n'eval(1)'  # pickle"
    assert code_in_data(source, "edp_robot/runs.py") == []


def test_length_is_counted():
    longest = "def f():\n" + "    x = 1\n" * (MAX_FUNCTION - 1)
    assert too_long(longest, "a.py") == []
    assert len(too_long(longest + "    x = 1\n", "a.py")) == 1
    assert too_long("\n" * MAX_FILE, "a.py") == []
    assert len(too_long("\n" * (MAX_FILE + 1), "a.py")) == 1
