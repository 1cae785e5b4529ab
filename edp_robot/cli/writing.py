"""Files and folders that commands write: checked before anything runs, written whatever fails.

A parameter of type `OutFile` or `OutFolder` (policy_server.contract.disk.outputs) is enough: `edp`
checks it before it calls the command.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from policy_server.contract.disk.outputs import WRITES_FILE, WRITES_FOLDER, check_file, check_folder

_CHECKS = {WRITES_FILE: check_file, WRITES_FOLDER: check_folder}


def checked(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `command`, which first checks where it is to write.

    It raises OSError where a file or folder cannot be written, and ValueError where two parameters
    name the same one.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        values = inspect.signature(command).bind(*args, **kwargs).arguments
        check_outputs(_outputs(command, values))
        return command(*args, **kwargs)

    return run


def check_outputs(outputs: Iterator[tuple[str, str, Path]]) -> None:
    """Checks each output: its option, what it is, and where.

    Raises:
        OSError: It cannot be written. ValueError: Two options name the same place.
    """
    taken: dict[Path, str] = {}
    for name, kind, path in outputs:
        option = f"--{name.replace('_', '-')}"
        try:
            _CHECKS[kind](path)
        except OSError as error:
            raise OSError(f"{option}: {error}") from error
        place = path.resolve()
        if place in taken and not place.is_char_device():
            raise ValueError(f"{taken[place]} and {option} both name {path}: give each its own")
        taken[place] = option


def write_each(*writers: Callable[[], object]) -> None:
    """Calls all writers, also after one that fails.

    Raises:
        OSError: Some failed. The message has what each said.
    """
    problems = []
    for write in writers:
        try:
            write()
        except OSError as error:
            problems.append(str(error))
    if problems:
        raise OSError("; ".join(problems))


def _outputs(owner: Any, values: dict[str, Any]) -> Iterator[tuple[str, str, Path]]:
    """Yields name, kind and place of each output among the values of a function or dataclass."""
    hints = get_type_hints(owner, include_extras=True)
    for name, value in values.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _outputs(type(value), vars(value))
        kinds = [kind for kind in _CHECKS if kind in _marks(hints.get(name))]
        if kinds and isinstance(value, Path):
            yield name, kinds[0], value


def _marks(hint: Any) -> Iterator[Any]:
    """Yields all marks of an annotation, also of those inside `X | None`."""
    for part in get_args(hint):
        yield part
        yield from _marks(part)
