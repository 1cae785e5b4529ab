"""What the processes of the simulated robot and of the pictures have in common."""

from __future__ import annotations

import os
import sys


def child_environment() -> dict[str, str]:
    """Returns environment variables with which a new Python process finds the same modules.

    A task given as `module:Class` may be in a folder that only this process has on its path.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
