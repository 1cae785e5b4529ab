"""A user's own folder: parts found there, and `edp` run there in this process.

A process of its own spends seconds on imports. What an own process alone can show (that the parts
are found without this one's help) each test of an example shows once, with `edp_process`.
"""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

from edp_robot import cli
from edp_robot.methods.explore import INTRINSIC_REWARDS
from edp_robot.methods.finetune import FINE_TUNERS
from policy_server.control.robot import ROBOTS
from policy_server.runtime.base import BACKENDS
from sim.core.registry import TASKS

REGISTRIES = (INTRINSIC_REWARDS, FINE_TUNERS, TASKS, ROBOTS, BACKENDS)


@contextlib.contextmanager
def at(folder):
    """Makes it the current folder. Its parts and modules are forgotten at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for registry in REGISTRIES:
            registry.names()  # finds all parts of ours
            patch.setattr(registry, "_parts", dict(registry._parts))
        patch.setattr(sys, "path", [*sys.path])
        yield folder
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]


def edp(folder, *arguments, check=True):
    """Runs `edp` in a folder; returns status and what it printed, as subprocess.run does."""
    words = [str(word) for word in arguments]
    printed = io.StringIO()
    said = io.StringIO()
    with at(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            status = cli.main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
    done = subprocess.CompletedProcess(words, status, printed.getvalue(), said.getvalue())
    assert not check or status == 0, f"edp {' '.join(words)}\n{done.stdout}{done.stderr}"
    return done


def edp_process(folder, *arguments):
    """Runs `edp` in a folder in a process of its own; returns what it printed."""
    command = [sys.executable, "-m", "edp_robot.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
