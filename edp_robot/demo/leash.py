"""Ends a command with whoever started it, however that ends: `python -m edp_robot.demo.leash PARENT_PID COMMAND ...`.

`leashed` gives the words of such a command. Linux tells the child of its parent's death (prctl PR_SET_PDEATHSIG), also
after a kill -9; elsewhere the command runs without that.
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
    """Becomes `command`, unless the parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked to be told
            sys.exit(143)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
