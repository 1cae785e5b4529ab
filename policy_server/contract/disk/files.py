"""Writes files so that a reader, or a kill, sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

AT_FDCWD = -100  # renameat2(2): paths start at the current folder
RENAME_EXCHANGE = 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = re.compile(r"\.(?P<name>.+?)\.(?:(?P<host>[\w-]*)@)?(?P<pid>\d+)(?:\.\w+)?\.tmp")
OLD_S = 24 * 3600.0  # the process of another machine is thought gone after this time [s]
STARTED_S = time.time()
MAX_LINKS = 40  # links followed from one to the next, as Linux does


class DiskFull(OSError):
    """There is no space for a file. The message says what still stands and what to do."""


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Writes `content` to a temporary file beside `path` and renames it.

    A missing folder is made.

    Raises:
        DiskFull: There is no space. The old content is still there.
        OSError: The folder or the file cannot be written. The old content is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields the temporary file to write, which replaces `path` at the end of the block.

    An error in the block removes it. What killed processes left behind is removed first. A missing
    folder is made. Of a link, the file that it names is replaced. What is no regular file (a pipe,
    a device) is written to as it is. What names an open file (/dev/stdout) is added to, wherever
    a shell sends it: `>> log` keeps the log.

    Raises:
        DiskFull: There is no space. The old content is still there.
        OSError: The folder or the file cannot be written. The old content is still there.
    """
    path = Path(path)
    number = descriptor(path)
    if number is not None:
        with _adding_to(number) as temporary:
            yield temporary
        return
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    temporary = temporary_path(path)
    try:
        with full_disk(f"{path} is as it was before; free some space and repeat the command"):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent, path.name)
            yield temporary
            _flush(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def descriptor(path: str | Path) -> int | None:
    """Returns the number of the open file that a path like /dev/stdout or /dev/fd/3 names.

    None: it names no open file of this process.
    """
    path = Path(path)
    for _ in range(MAX_LINKS):
        if path.name.isdecimal() and path.parent.resolve() == Path("/dev/fd").resolve():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


@contextlib.contextmanager
def _adding_to(number: int) -> Iterator[Path]:
    """Yields a temporary file, whose content is written to an open file at the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "content"
        yield temporary
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # what was printed before stands before it
        with os.fdopen(os.dup(number), "wb") as file:
            file.write(temporary.read_bytes())


@contextlib.contextmanager
def full_disk(advice: str) -> Iterator[None]:
    """Turns an OSError of a full disk inside the block into DiskFull with the advice.

    Of several blocks around each other the outer one gives the advice.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        said = DiskFull(f"{os.strerror(error.errno)}: {advice}")
        said.errno = error.errno
        raise said from error


def temporary_path(path: Path) -> Path:
    """Returns the name that this process writes `path` under before it renames it."""
    return path.with_name(f".{path.name}.{_host()}@{os.getpid()}.tmp")


def sweep(folder: Path, name: str | None = None) -> None:
    """Removes the temporary files that killed processes left in a folder.

    Args:
        folder: The folder.
        name: Only those of the file of this name, and only where their process is gone. None: all
            of them; the caller knows that no other process writes here.
    """
    found = _temporaries(folder) if name is None else orphans(folder, name)
    for file in found:
        if not file.is_dir():
            file.unlink(missing_ok=True)


def orphans(folder: Path, name: str) -> list[Path]:
    """Returns the temporary files and folders for `name` whose process is gone."""
    found = _temporaries(folder).items()
    return [file for file, said in found if said["name"] == name and _is_orphan(file, said)]


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
    ours = {*contents, *old}
    for left in orphans(path.parent, path.name):
        _remove_scratch(left, ours)
    prefix = f"{temporary_path(path).stem}."
    scratch = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=path.parent))
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
        kept = _remove_scratch(scratch, ours)
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


def _remove_scratch(scratch: Path, names: Collection[str]) -> list[str]:
    """Deletes the files `names` in a scratch folder; returns the names of what is left in it."""
    left = [name for inside in ("new", "old") for name in _remove(scratch / inside, names)]
    _remove(scratch, ())
    return left


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


def _temporaries(folder: Path) -> dict[Path, re.Match[str]]:
    """Returns the temporary files and folders in a folder, with what their names say."""
    found = {file: TEMPORARY.fullmatch(file.name) for file in folder.glob(".*.tmp")}
    return {file: said for file, said in found.items() if said is not None}


def _is_orphan(file: Path, said: re.Match[str]) -> bool:
    """Returns whether the process that wrote a temporary file is gone."""
    try:
        written_s = file.stat().st_mtime
    except FileNotFoundError:
        return False
    pid = int(said["pid"])
    if os.name != "posix" or said["host"] not in (None, _host()):
        return time.time() - written_s > OLD_S
    if pid == os.getpid():  # an earlier process may have had our number, as in a container
        return written_s < STARTED_S - 1
    return not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # it is another user's, or no process id here
        pass
    return True


def _host() -> str:
    """Returns this machine's name, in letters that a file's name can have."""
    return re.sub(r"[^\w-]", "-", platform.node())[:64]


def _flush(file: Path) -> None:
    """Asks the system to write a file to the disk, so that a power cut leaves no empty one."""
    number = os.open(file, os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)
