"""Admits one thread of one process at a time to an object that several must not share."""

import os
import threading
from collections.abc import Callable


class SharedUse(RuntimeError):
    """A policy is used by two threads at once. Make one in each thread."""


class SoleUse:
    """A lock that never waits: `with sole_use: ...` raises where another thread is inside.

    Args:
        what: Names the object in messages.
        in_child: Called at the first use in a process that was forked off.
    """

    def __init__(self, what: str, in_child: Callable[[], None]):
        self._what = what
        self._in_child = in_child
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if os.getpid() != self._pid:
            self._lock = threading.Lock()  # A thread that the fork left behind may have held it.
            self._in_child()
            self._pid = os.getpid()
        if not self._lock.acquire(blocking=False):
            raise SharedUse(
                f"{self._what} is in use by another thread right now: make one in each thread"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()
