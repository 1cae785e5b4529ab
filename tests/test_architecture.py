"""The rules of the house hold in every file, and each rule can fail."""

import subprocess
import sys
from collections import Counter
from pathlib import PurePosixPath

import pytest
from support import house
from support.house import CLI, HEAVY, MAX_FILE, MAX_FUNCTION, MAX_LINE, MAX_MODULES, OURS, ROOT

PACKAGES = [path for room in OURS for path in sorted((ROOT / room).rglob("*.py"))]
BESIDE = [
    path
    for folder in ("tests", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
HISTORY = ROOT / "docs" / "log.md"  # quotes what was said at the time
ROOMS = {  # a room of policy_server may import these rooms, and leaves of the others
    "contract": (),
    "transport": ("contract",),
    "runtime": ("contract",),
    "control": ("contract", "transport", "runtime"),
    "observe": ("contract", "transport", "control"),
    "serving": ("contract", "transport", "runtime", "observe"),
    "bench": ("contract", "transport", "runtime", "control", "observe"),
}
LIGHT = [
    "edp_robot",
    "policy_server",
    "sim",
    "calibration",
    "policy_server.contract.bundle",
    "policy_server.contract.policy",
    "policy_server.control.client",
    "policy_server.control.loop",
    "policy_server.control.robot",
    "edp_robot.cli",
]


def faults(check, paths):
    return [
        fault for path in paths for fault in check(path.read_text(), str(path.relative_to(ROOT)))
    ]


def sources():
    return {name: path.read_text() for name, path in house.modules(PACKAGES).items()}


PACKAGE_RULES = [
    house.import_faults,
    house.relative_imports,
    house.code_in_data,
    house.probing,
    house.missing_args,
]
RULES = [house.too_long, house.several_assignments, house.onnxruntime_imports]


@pytest.mark.parametrize("check", PACKAGE_RULES, ids=lambda check: check.__name__)
def test_the_packages_keep_the_rule(check):
    found = faults(check, PACKAGES)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("folder", [*OURS, "tests", "benchmarks", "examples"])
@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
def test_every_file_keeps_the_rule(check, folder):
    paths = [path for path in PACKAGES + BESIDE if path.relative_to(ROOT).parts[0] == folder]
    assert paths
    found = faults(check, paths)
    assert not found, "\n" + "\n".join(found)


def test_code_and_documents_are_plain():
    checker = {ROOT / "tests" / "support" / "house.py", ROOT / "tests" / "test_architecture.py"}
    found = faults(house.unclear_prose, {*PACKAGES, *BESIDE, *DOCUMENTS} - {HISTORY} - checker)
    assert not found, "\n" + "\n".join(sorted(found))


def test_no_file_names_a_path_of_one_machine():
    paths = [path for path in BESIDE if path.relative_to(ROOT).parts[0] != "tests"]
    found = faults(house.machine_paths, [*PACKAGES, *paths, *DOCUMENTS])
    assert not found, "\n" + "\n".join(found)


def test_no_modules_import_each_other_in_a_circle():
    assert house.circle(house.import_graph(sources())) == []


def test_rooms_of_policy_server_import_in_one_direction():
    graph = house.import_graph(sources())
    leaves = house.leaves(graph, "policy_server.contract")
    allowed = {(room, below) for room, rooms in ROOMS.items() for below in rooms}
    wrong = {
        f"{module} imports {name}"
        for module in graph
        for name in graph[module] - leaves
        if house.directions({module: {name}}, "policy_server") - allowed
    }
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def test_rooms_of_policy_server_are_all_named_and_lie_on_each_other():
    folders = {path.name for path in (ROOT / "policy_server").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(ROOMS)
    below = list(ROOMS)
    for room, rooms in ROOMS.items():
        assert set(rooms) <= set(below[: below.index(room)])


def test_a_folder_has_few_modules():
    n_modules = Counter(path.parent for path in PACKAGES if not path.stem.startswith("__"))
    crowded = {str(path.relative_to(ROOT)): n for path, n in n_modules.items() if n > MAX_MODULES}
    assert not crowded


def test_a_module_name_means_one_thing():
    named = [
        path
        for path in PACKAGES
        if not path.stem.startswith("__") and not str(path.relative_to(ROOT)).startswith(CLI)
    ]
    repeated = {stem for stem, n in Counter(path.stem for path in named).items() if n > 1}
    found = sorted(str(path.relative_to(ROOT)) for path in named if path.stem in repeated)
    assert not found, "\n" + "\n".join(found)


def test_tests_lie_where_the_code_lies():
    folders = {
        path.parent.relative_to(ROOT / "tests")
        for room in (*OURS, "benchmarks", "examples")
        for path in (ROOT / "tests" / room).rglob("test_*.py")
    }
    homeless = sorted(str(folder) for folder in folders if not (ROOT / folder).is_dir())
    assert folders and not homeless


def test_exceptions_are_still_needed():
    for text, call in (name.split(": ", 1) for name in house.MAY_PROBE):
        assert call in (ROOT / text).read_text().replace('"', "'"), f"{text} no longer calls {call}"
    for name in house.DYNAMIC_IMPORT:
        assert "import_module(" in (ROOT / name).read_text(), f"{name} no longer needs it"


def loaded_by(code):
    command = [
        sys.executable,
        "-c",
        f"{code}\nimport sys; print(sorted({HEAVY!r} & {{*sys.modules}}))",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", LIGHT)
def test_a_robots_computer_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}") == "[]\n"


def test_the_command_line_loads_nothing_heavy():
    names = [name for name in house.modules(PACKAGES) if name.startswith("edp_robot.cli.")]
    names.remove("edp_robot.cli.__main__")
    assert names
    assert loaded_by("\n".join(f"import {name}" for name in names)) == "[]\n"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("policy_server/serving/a.py", "import torch"),
        ("policy_server/serving/a.py", "def f():\n    from torch import nn"),
        ("policy_server/serving/a.py", "import mujoco.rollout as r"),
        ("policy_server/serving/a.py", "from gymnasium import spaces"),
        ("policy_server/serving/a.py", "import edp_robot.training.runs"),
        ("policy_server/serving/a.py", "from sim.tasks import arm"),
        ("policy_server/serving/a.py", "importlib.import_module('torch.nn')"),
        ("policy_server/serving/a.py", "import_module(name)"),
        ("policy_server/serving/a.py", "__import__('calibration')"),
        ("policy_server/serving/a.py", "from ... import edp_robot"),
        (
            "policy_server/serving/a.py",
            "from policy_server.contract.onnx_import import import_onnxruntime",
        ),
        ("policy_server/contract/a.py", "import scipy.stats"),
        ("policy_server/contract/a.py", "import zmq"),
        ("policy_server/contract/a.py", "from policy_server.control import limiter"),
        ("policy_server/contract/a.py", "if TYPE_CHECKING:\n    import onnx"),
        ("sim/tasks/a.py", "import torch"),
        ("sim/tasks/a.py", "import zmq.asyncio"),
        ("sim/tasks/a.py", "from calibration.file import load"),
        ("sim/tasks/a.py", "from policy_server import Bundle"),
        ("sim/tasks/a.py", "from policy_server.contracts import bundle"),
        ("calibration/motion/a.py", "import os, torch"),
        ("calibration/motion/a.py", "class A:\n    from edp_robot import config"),
        ("edp_robot/training/a.py", "import policy_server"),
        ("edp_robot/training/a.py", "from policy_server.control import client"),
        ("edp_robot/training/a.py", "from policy_server import *"),
        ("edp_robot/training/a.py", "import calibration"),
        ("edp_robot/training/a.py", "from ...calibration import file"),
        ("edp_robot/cli/a.py", "from policy_server.control.client import PolicyClient"),
        ("edp_robot/cli/a.py", "import torch"),
        ("edp_robot/cli/a.py", "if True:\n    from sim.core import registry"),
        ("edp_robot/cli/a.py", "def f(x=__import__('torch')): pass"),
    ],
)
def test_forbidden_imports_are_found(path, source):
    assert len(house.import_faults(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("policy_server/serving/a.py", "import zmq\nfrom policy_server.contract import wire"),
        (
            "policy_server/runtime/onnxruntime/a.py",
            "from policy_server.contract.onnx_import import import_onnxruntime",
        ),
        ("policy_server/contract/a.py", "import json\nimport numpy as np\nfrom os import path"),
        ("policy_server/contract/a.py", "def f():\n    import scipy"),
        (
            "policy_server/contract/doors/registries.py",
            "import importlib\nimportlib.import_module(name)",
        ),
        ("sim/tasks/a.py", "import mujoco\nfrom policy_server.contract.field import Field"),
        ("calibration/motion/a.py", "import sim.core\nfrom policy_server.control import limiter"),
        ("edp_robot/deploy/a.py", "import torch\nfrom policy_server.contract import bundle"),
        ("edp_robot/cli/a.py", "import tyro\ndef f():\n    import calibration, torch"),
        ("edp_robot/cli/a.py", "from policy_server.contract.disk.files import write_json"),
        ("edp_robot/cli/a.py", "def f(name):\n    import_module(f'policy_server.{name}')"),
    ],
)
def test_allowed_imports_pass(path, source):
    assert house.import_faults(source, path) == []


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
    assert len(house.code_in_data(source, "sim/a.py")) == 1


def test_harmless_code_passes():
    source = "model.eval()\nnp.load(f, allow_pickle=False)\ntorch.load(f, weights_only=True)"
    assert house.code_in_data(source, "edp_robot/a.py") == []
    assert house.code_in_data("'eval(1)'  # pickle", "edp_robot/a.py") == []


def test_length_is_counted():
    longest = "def f():\n" + "    x = 1\n" * (MAX_FUNCTION - 1)
    assert house.too_long(longest, "a.py") == []
    assert len(house.too_long(longest + "    x = 1\n", "a.py")) == 1
    assert house.too_long("\n" * MAX_FILE, "a.py") == []
    assert len(house.too_long("\n" * (MAX_FILE + 1), "a.py")) == 1
    assert house.too_long("#" * MAX_LINE, "a.py") == []
    assert len(house.too_long("#" * (MAX_LINE + 1), "a.py")) == 1


@pytest.mark.parametrize(
    ("check", "wrong", "right"),
    [
        (house.relative_imports, "from . import a", "from sim import a"),
        (house.onnxruntime_imports, "import onnxruntime as o", "import onnx.reference"),
        (house.onnxruntime_imports, "from onnxruntime import quantization", "import sys"),
        (house.probing, "hasattr(x, 'y')", "hasattr(os, 'sched_getaffinity')"),
        (house.probing, "getattr(x, 'y', None)", "getattr(x, 'y')"),
        (house.several_assignments, "a, b = x, y", "a, b = f()"),
        (house.several_assignments, "self.a, b = [x, y]", "a = x, y"),
        (house.unclear_prose, "# Answers whoever asks", "# Answers every client"),
        (house.machine_paths, "open('/home/me/x')", "open('docs/home/me')"),
    ],
)
def test_faults_of_style_are_found(check, wrong, right):
    assert len(check(wrong, "sim/a.py")) == 1
    assert check(right, "sim/a.py") == []


@pytest.mark.parametrize(
    ("source", "n_faults"),
    [
        ("def f(a, b, c): ...", 1),
        ("def f(a, b, *, c): ...", 1),
        ("class A:\n    def f(self, a, b, c): ...", 1),
        ("def f(a, b, c):\n    '''Returns 1.\n\n    Args:\n        a: One.\n    '''", 0),
        ("def f(a, b): ...", 0),
        ("def _f(a, b, c): ...", 0),
        ("class A:\n    def f(self, a, b): ...", 0),
        ("class _A:\n    def f(self, a, b, c): ...", 0),
    ],
)
def test_missing_args_are_found(source, n_faults):
    assert len(house.missing_args(source, "sim/a.py")) == n_faults


def test_circles_are_found():
    circular = {
        "sim.a": "if TYPE_CHECKING:\n    from sim.b import B",
        "sim.b": "def f():\n    import sim.c.d",
        "sim.c.d": "from sim import a",
        "sim.e": "import sim.a",
    }
    graph = house.import_graph(circular)
    assert graph["sim.b"] == {"sim.c.d"}
    assert house.circle(graph) == ["sim.a", "sim.b", "sim.c.d", "sim.a"]
    assert house.circle(house.import_graph({**circular, "sim.c.d": "import sim"})) == []


def test_a_package_is_not_imported_with_its_modules():
    package = {"sim": "from sim.a import A", "sim.a": "from sim.b import B", "sim.b": ""}
    assert house.circle(house.import_graph(package)) == []
    assert house.circle(house.import_graph({**package, "sim.b": "from sim import A"}))


def test_directions_are_told_apart():
    graph = {"p.a.x": {"p.b.y", "p.a.z", "q.c"}, "p": {"p.a.x"}}
    assert house.directions(graph, "p") == {("a", "b")}


def test_a_leaf_imports_the_contract_and_pure_modules_only():
    graph = {
        "p.a": {"p.contract.x"},
        "p.b": {"p.a"},
        "p.pure": set(),
        "p.c": {"p.pure", "p.contract.x"},
        "p.d": {"p.contracts"},
    }
    assert house.leaves(graph, "p.contract") == {"p.a", "p.pure", "p.c"}


def test_names_of_modules_follow_their_paths():
    assert house.module_name(PurePosixPath("sim/core/vec.py")) == "sim.core.vec"
    assert house.module_name(PurePosixPath("sim/core/__init__.py")) == "sim.core"
