"""`edp doctor` and `edp tasks`; what each part of edp needs installed."""

from __future__ import annotations

import importlib.util
import os
import platform
import traceback
from importlib.metadata import PackageNotFoundError, version

from policy_server.contract.onnx_import import import_onnxruntime

ROBOT = "robot (client, control loop)"
NEEDS = {  # extra of edp-robot: the distributions that it adds
    ROBOT: ("numpy", "pyzmq", "scipy", "tyro"),
    "serve": ("onnxruntime-gpu", "prometheus-client"),
    "sim": ("mujoco", "gymnasium", "gymnasium-robotics", "pillow"),
    "train": ("torch", "onnx", "onnxscript", "safetensors", "tensorboard", "matplotlib", "jinja2"),
    "urlb": ("dm_control",),
    "scale": ("ray",),
}
DISTRIBUTIONS = {"PIL": "pillow", "onnxruntime": "onnxruntime-gpu", "zmq": "pyzmq"}  # by module


def import_problem(error: ImportError | SyntaxError) -> str:
    """Returns in one line what is missing or wrong, and what to do about it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    package = (error.name or "").partition(".")[0]
    distribution = DISTRIBUTIONS.get(package, package.replace("_", "-"))
    if isinstance(error, ModuleNotFoundError):
        for extra, needed in NEEDS.items():
            if distribution in needed or package in needed:
                option = "" if extra == ROBOT else f"[{extra}]"
                return f"needs {package!r}, which is not installed: pip install 'edp-robot{option}'"
    return f"{error} (imported in {_place(error)})"


def _place(error: ImportError) -> str:
    """Returns the file and line of the import that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if not f.filename.startswith("<") and "importlib" not in f.filename]
    return f"{ours[-1].filename}, line {ours[-1].lineno}"


def found(package: str) -> str:
    """Returns the installed version, or ''; onnxruntime counts as onnxruntime-gpu."""
    for name in (package, package.removesuffix("-gpu")):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def doctor() -> int:
    """Show what this machine has and what is missing; exit with 1 where a robot cannot run.

    Example: edp doctor
    """
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    for part, packages in NEEDS.items():
        versions = {package: found(package) for package in packages}
        missing = [package for package, installed in versions.items() if not installed]
        state = f"missing {', '.join(missing)}" if missing else "ok"
        present = ", ".join(
            f"{name} {installed}" for name, installed in versions.items() if installed
        )
        print(f"  {part:<30} {state:<24} {present}")
    if importlib.util.find_spec("onnxruntime"):
        ort = import_onnxruntime()
        print(f"  ONNX Runtime providers built in: {', '.join(ort.get_available_providers())}")
    if importlib.util.find_spec("torch"):
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        print(f"  CUDA in torch: {gpu}")
    if importlib.util.find_spec("mujoco"):
        from sim.robots.render import available

        print(f"  rendering: {available() or 'works'}")
    return int(not all(map(found, NEEDS[ROBOT])))


def tasks() -> int:
    """List the tasks.

    Example: edp tasks
    """
    from sim.core.registry import task_names

    names = task_names()
    width = max(map(len, names)) + 2
    print(f"{'task':<{width}}{'obs':>4}{'act':>5}{'episode':>9}{'control':>9}")
    for name in names:
        print(f"{name:<{width}}{_sizes(name)}")
    return 0


def _sizes(task: str) -> str:
    """Returns the sizes and times of a task, or what it lacks."""
    from sim.core.registry import task_spec

    if "<" in task:
        return "any Gymnasium environment, e.g. gym:FetchReach-v4"
    try:
        spec = task_spec(task)
    except ImportError as error:
        return import_problem(error)
    hz = 1 / spec.control_period_s
    return f"{spec.obs_dim:>4}{spec.act_dim:>5}{spec.episode_steps:>9}{hz:>6.0f} Hz"
