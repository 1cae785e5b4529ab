"""The lock of a run folder: the system holds it for one process, and lets go where that ends."""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

LOCK = ".lock"


def locked(folder: Path) -> BaseFileLock:
    """Returns the lock of a folder, which is made if it is missing. `release` ends it.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"{folder} is being written by another process; wait until it has ended, stop it, or "
            "choose another --out"
        ) from None
    return lock
