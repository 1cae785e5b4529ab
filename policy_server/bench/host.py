"""What a latency depends on besides the code: the machine, its load and the installed libraries."""

import os
import platform
from pathlib import Path
from typing import Any

import zmq

from policy_server.contract.commit import installed_version, source_commit

_DISTRIBUTIONS = ("edp-robot", "numpy", "pyzmq", "onnxruntime-gpu", "onnxruntime")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPU_INFO = Path("/proc/cpuinfo")


def host() -> dict[str, Any]:
    """Returns a description of this machine as JSON values.

    The keys are cpu, n_cores, governor, virtual_machine, kernel, load_average, commit, python,
    libzmq and one for each installed library. What cannot be read is None.
    """
    versions = {name: installed_version(name) for name in _DISTRIBUTIONS}
    return {
        "cpu": _cpu_model(),
        "n_cores": n_cores(),
        "governor": _read(_GOVERNOR),
        "virtual_machine": _is_virtual(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "commit": source_commit(Path(__file__)),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        **{name: version for name, version in versions.items() if version},
    }


def n_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_virtual() -> bool | None:
    """Returns whether the CPU reports a hypervisor. None: it does not say, as on ARM."""
    flags = [line for line in (_read(_CPU_INFO) or "").splitlines() if line.startswith("flags")]
    return "hypervisor" in flags[0].split() if flags else None


def _cpu_model() -> str:
    lines = (_read(_CPU_INFO) or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
