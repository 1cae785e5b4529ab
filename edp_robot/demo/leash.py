"""Ends a command when its parent dies: `python -m edp_robot.demo.leash PARENT_PID COMMAND ...`.

`leashed` gives the words of such a command. On Linux the kernel signals the child when the parent
dies, even after kill -9 (prctl PR_SET_PDEATHSIG). Elsewhere the command runs without that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def leashed(command: list[str]) -> list[str]:
    """Returns the words that start `command` so that it gets SIGTERM when this process dies."""
    return [sys.executable, "-m", "edp_robot.demo.leash", str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Replaces this process by `command`, unless the parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the call above
            sys.exit(143)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
