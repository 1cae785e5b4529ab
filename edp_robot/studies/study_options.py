"""What the options of all studies share: checks, and the command that repeats a study."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from sim.tasks.mazes import task_names

MAZE_PREFIX = "maze-square-"


def check_names(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    """Checks that names exist.

    Args:
        kind: What the names stand for, like "maze".
        names: The names.
        known: The names that exist.

    Raises:
        ValueError: A name does not exist. The message lists those that do.
    """
    if unknown := [name for name in names if name not in known]:
        said = ", ".join(map(repr, unknown))
        raise ValueError(f"no {kind} {said}; there are: {', '.join(known)}")


def check_mazes(names: Sequence[str]) -> None:
    """Raises ValueError where one of the short names of mazes does not exist."""
    check_names("maze", names, [task.removeprefix(MAZE_PREFIX) for task in task_names()])


def command_line(study: str, options: Any, leave_out: Collection[str] = ()) -> str:
    """Returns the command that repeats a study, with every option written out.

    Args:
        study: Name of the study, like "exploration".
        options: The study's dataclass of options.
        leave_out: Names of fields that mean nothing here.
    """
    words = ["edp", "study", study]
    for field in [field for field in fields(options) if field.name not in leave_out]:
        name = field.name.replace("_", "-")
        value = getattr(options, field.name)
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return shlex.join(words)
