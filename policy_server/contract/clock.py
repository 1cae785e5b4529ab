"""Waits for deadlines, and keeps this process quiet meanwhile."""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

FOREVER_S = 1e9  # 31 years: as good as without limit, and its nanoseconds fit into 64 bits.


class Clock(NamedTuple):
    """A clock that a test can replace.

    Attributes:
        now_ns: Returns monotonic time [ns].
        sleep: Sleeps for a time [s].
    """

    now_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], None] = time.sleep


def wait_until(deadline_ns: int, spin_ns: int = 200_000, clock: Clock | None = None) -> int:
    """Returns the time at which the wait ended, at or after `deadline_ns` [ns].

    It sleeps until `spin_ns` before the deadline, because the operating system wakes a sleeper
    late. Then it watches the clock.

    Args:
        deadline_ns: When to return, on the clock's scale [ns].
        spin_ns: How long to watch the clock instead of sleeping [ns]. This keeps a core busy for
            that time.
        clock: Clock to use. None: CLOCK_MONOTONIC.
    """
    now_ns, sleep = clock or Clock()
    now = now_ns()
    while now < deadline_ns:
        if deadline_ns - now > spin_ns:
            sleep((deadline_ns - now - spin_ns) * 1e-9)
        now = now_ns()
    return now


def after(start_ns: int, wait_s: float, name: str) -> int:
    """Returns the monotonic time `wait_s` after `start_ns` [ns]. An infinite wait is FOREVER_S.

    Args:
        start_ns: Monotonic time [ns].
        wait_s: A time from 0 to infinity [s].
        name: Names the time in the message.

    Raises:
        ValueError: The time is negative or no number.
    """
    if not wait_s >= 0:
        raise ValueError(f"{name} {wait_s}: expected 0 s or more; inf waits without limit")
    return start_ns + int(min(wait_s, FOREVER_S) * 1e9)


class RealtimeError(RuntimeError):
    """The system refused real-time scheduling. The message says what it needs."""


@contextlib.contextmanager
def quiet(realtime: bool = False) -> Iterator[None]:
    """Stops the garbage collector inside the block. A block inside another one costs nothing.

    Args:
        realtime: Schedule this thread as SCHED_FIFO with priority 50 too.

    Raises:
        RealtimeError: The system does not permit SCHED_FIFO.
    """
    with contextlib.ExitStack() as stack:
        if realtime:
            previous = (os.sched_getscheduler(0), os.sched_getparam(0))
            _schedule_realtime()
            stack.callback(os.sched_setscheduler, 0, *previous)
        if gc.isenabled():
            _stop_the_collector(stack)
        yield


def _stop_the_collector(stack: contextlib.ExitStack) -> None:
    """Collects once, then stops the garbage collector until `stack` is closed."""
    gc.collect()
    gc.freeze()
    stack.callback(gc.unfreeze)
    gc.disable()
    stack.callback(gc.enable)


def _schedule_realtime() -> None:
    """Schedules this thread as SCHED_FIFO 50. Raises RealtimeError where that is not permitted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    except OSError as error:
        raise RealtimeError(
            f"SCHED_FIFO refused ({error.strerror}); allow it (CAP_SYS_NICE, or rtprio 50 in "
            "limits.conf) or run without real-time scheduling"
        ) from error
