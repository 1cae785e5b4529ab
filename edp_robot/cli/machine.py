"""`edp doctor` and `edp tasks`."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version

NEEDS = {
    "robot (client, control loop)": ("numpy", "pyzmq", "tyro"),
    "serve": ("onnxruntime-gpu",),
    "train": (
        "torch",
        "mujoco",
        "gymnasium",
        "gymnasium-robotics",
        "onnx",
        "onnxscript",
        "safetensors",
        "tensorboard",
    ),
    "report": ("matplotlib", "imageio", "pillow"),
    "urlb": ("dm_control",),
}


def found(package: str) -> str:
    """Returns the installed version, or ''; onnxruntime counts as onnxruntime-gpu where that does not exist."""
    for name in (package, package.removesuffix("-gpu")):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def doctor() -> int:
    """Show what this machine has and what is missing; exit status 1 where the robot's part cannot run.

    Example: edp doctor
    """
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    broken = False
    for part, packages in NEEDS.items():
        versions = {p: found(p) for p in packages}
        missing = [p for p, v in versions.items() if not v]
        state = f"missing {', '.join(missing)}" if missing else "ok"
        print(f"  {part:<30} {state:<24} {', '.join(f'{p} {v}' for p, v in versions.items() if v)}")
        broken |= bool(missing) and part.startswith("robot")
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime as ort

        print(f"  ONNX Runtime providers built in: {', '.join(ort.get_available_providers())}")
    if importlib.util.find_spec("torch"):
        import torch

        print(
            f"  CUDA in torch: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}"
        )
    if importlib.util.find_spec("mujoco"):
        from sim.core.render import available

        print(f"  rendering: {available() or 'works'}")
    return int(broken)


def tasks() -> int:
    """List the tasks.

    Example: edp tasks
    """
    from sim.core.registry import task_names, task_spec

    print(f"{'task':<22}{'obs':>5}{'act':>5}{'episode':>9}{'control':>10}")
    for name in task_names():
        if "<" in name:
            print(f"{name:<22}any Gymnasium environment, e.g. gym:FetchReach-v4")
            continue
        spec = task_spec(name)
        print(
            f"{name:<22}{spec.obs_dim:>5}{spec.act_dim:>5}{spec.episode_steps:>9}{1 / spec.control_period_s:>7.0f} Hz"
        )
    return 0
