"""Writes files so that a reader, or a kill, sees the old content or the new one, never a part."""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

AT_FDCWD = -100  # renameat2(2): paths start at the current folder
RENAME_EXCHANGE = 2


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Writes `content` to a temporary file beside `path` and renames it.

    A missing folder is made.

    Raises:
        OSError: The folder or the file cannot be written. The old content is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Returns the name that this process writes `path` under before it renames the file."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def json_text(value: Any) -> str:
    """Returns strict JSON with sorted keys and a final newline.

    Raises:
        ValueError: The value holds NaN or infinity. TypeError: It holds what JSON cannot.
    """
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: str | Path | None, value: Any) -> None:
    """Writes `value` as strict JSON, atomically. Does nothing where `path` is None.

    Raises:
        ValueError: The value holds NaN or infinity. OSError: The file cannot be written.
    """
    if path is not None:
        write_atomic(path, json_text(value))


def replace_folder(path: Path, contents: Mapping[str, bytes], old: Collection[str] = ()) -> None:
    """Writes a folder of files, where nothing is, or in place of an empty folder or an older one.

    Nothing is deleted but the files named in `old`.

    Args:
        path: The folder.
        contents: Content of each file by name. The last file is the last to appear.
        old: Names of the files that an older folder holds.

    Raises:
        OSError: It cannot be written, and what was there still is. Or other files came into the old
            folder meanwhile; the message says where they are.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new = scratch / "new"
    try:
        new.mkdir()
        for name, data in contents.items():
            (new / name).write_bytes(data)
        if not path.exists():
            new.rename(path)
        elif any(path.iterdir()):
            _exchange(new, path)
        else:  # an empty folder stays, since it may be the current one or a mount point
            for name in contents:
                (new / name).rename(path / name)
    finally:
        kept = _remove(new, {*contents, *old})
        _remove(scratch, ())
    if kept:
        raise OSError(f"{', '.join(kept)} came into {path} meanwhile; they are in {new}")


def _exchange(new: Path, path: Path) -> None:
    """Lets two folders change places: at once where the system can, else one after the other."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux, or an old one
        rename = None
    names = (os.fsencode(new), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE)
    if rename is not None and rename(AT_FDCWD, *names) == 0:
        return
    aside = new.with_name("old")
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    aside.rename(new)


def _remove(folder: Path, names: Collection[str]) -> list[str]:
    """Deletes the files `names` of a folder, and the folder if it is empty then.

    Returns the names of what is left in it.
    """
    if not folder.is_dir():
        return []
    for name in names:
        (folder / name).unlink(missing_ok=True)
    left = sorted(entry.name for entry in folder.iterdir())
    if not left:
        folder.rmdir()
    return left
