"""What a measured latency depends on besides the code: the machine, and what runs on it."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from policy_server.contract.commit import installed_version

_DISTRIBUTIONS = ("edp-robot", "numpy", "pyzmq", "onnxruntime-gpu", "onnxruntime")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPU_INFO = Path("/proc/cpuinfo")


def host() -> dict[str, Any]:
    """Returns cpu, n_cores, governor, virtual_machine, kernel, load_average, commit, python and library versions.

    What cannot be read is None, except for a library that is not installed, which is left out.
    """
    versions = {name: installed_version(name) for name in _DISTRIBUTIONS}
    return {
        "cpu": _cpu_model(),
        "n_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "governor": _read(_GOVERNOR),
        "virtual_machine": _is_virtual(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "commit": commit(),
        "python": platform.python_version(),
        "libzmq": _libzmq(),
        **{name: version for name, version in versions.items() if version},
    }


def commit(file: Path = Path(__file__)) -> str | None:
    """Returns the git commit of the checkout that `file` belongs to, `+changes` where it differs; None outside one.

    Args:
        file: Must be under version control: a package installed below some other checkout has no commit.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    head, changes = (
        _git(file.parent, "rev-parse", "HEAD"),
        _git(file.parent, "status", "--porcelain", "-uno"),
    )
    return f"{head}+changes" if head and changes else head


def _git(folder: Path, *args: str) -> str | None:
    """Returns what git says, None where it fails or is not installed."""
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), *args],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _is_virtual() -> bool | None:
    """Returns whether the CPU says that a hypervisor runs below; None where that cannot be read, as on ARM."""
    flags = [line for line in (_read(_CPU_INFO) or "").splitlines() if line.startswith("flags")]
    return "hypervisor" in flags[0].split() if flags else None


def _cpu_model() -> str:
    lines = (_read(_CPU_INFO) or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _libzmq() -> str:
    import zmq

    return zmq.zmq_version()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
