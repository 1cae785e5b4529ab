"""Where a command writes: how its parameters say so, and whether that place can be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from policy_server.contract.disk.files import descriptor, temporary_path

# What a parameter of a command means: `edp` checks such a place before it calls the command.
WRITES_FILE = "a file that the command writes"
WRITES_FOLDER = "a folder that the command makes"
OutFile = Annotated[Path, WRITES_FILE]
OutFolder = Annotated[Path, WRITES_FOLDER]


def check_file(path: str | Path) -> None:
    """Returns where `path` can be written, now and in a folder that is not there yet.

    Nothing is left behind. Folders are made when the file is written.

    Raises:
        OSError: It is a folder, it or its folder is read-only, a file stands where a folder must
            be, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} cannot be written: it is read-only")
    is_open = path.exists() and descriptor(path) is not None
    if not is_open and (path.is_file() or not path.exists()):  # pipes are written as they are
        path = path.resolve()
        _probe(path.parent, temporary_path(path).name)


def check_folder(path: str | Path) -> None:
    """Returns where `path` is a folder that can be written to, or can be made.

    Raises:
        OSError: It is a file, a file stands above it, or the nearest folder is read-only or full.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: give a folder")
    _probe(path, temporary_path(path).name)


def _probe(folder: Path, name: str) -> None:
    """Writes a byte under `name` in `folder`, or the nearest above it that exists, and deletes it.

    Raises:
        OSError: That is no folder, or it cannot be written to.
    """
    there = next(above for above in (folder, *folder.parents) if above.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, and must be a folder")
    probe = there / name
    try:
        probe.write_bytes(b"x")
    except OSError as error:
        raise type(error)(f"{there} cannot be written to: {error.strerror or error}") from error
    finally:
        probe.unlink(missing_ok=True)
