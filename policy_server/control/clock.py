"""Waiting for a deadline, and making this process a quieter place to do so."""

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Clock(NamedTuple):
    """A clock that a test can replace.

    Attributes:
        now_ns: Returns monotonic time [ns].
        sleep: Sleeps for a time [s].
    """

    now_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], None] = time.sleep


def wait_until(deadline_ns: int, spin_ns: int = 200_000, clock: Clock | None = None) -> int:
    """Returns the time [ns] at which the wait ended: the first look at the clock at or after `deadline_ns`.

    Sleeps until `spin_ns` before the deadline, since the operating system wakes a sleeper late, then watches
    the clock.

    Args:
        deadline_ns: When to return, on the clock's scale [ns].
        spin_ns: How long to watch the clock instead of sleeping [ns]; it costs a core for that time.
        clock: Clock to use; None for CLOCK_MONOTONIC.
    """
    now_ns, sleep = clock or Clock()
    now = now_ns()
    while now < deadline_ns:
        if deadline_ns - now > spin_ns:
            sleep((deadline_ns - now - spin_ns) * 1e-9)
        now = now_ns()
    return now


class RealtimeError(RuntimeError):
    """Real-time scheduling was asked for and the system refused; the message says what it wants."""


@contextlib.contextmanager
def quiet(realtime: bool = False) -> Iterator[None]:
    """Stops the garbage collector inside the block and, if asked, schedules this thread as SCHED_FIFO 50.

    Raises:
        RealtimeError: `realtime` was asked for and is not permitted here.
    """
    if realtime:
        policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
        except OSError as error:
            raise RealtimeError(
                f"SCHED_FIFO refused ({error.strerror}); allow it (CAP_SYS_NICE, or rtprio 50 in limits.conf) "
                "or run without real-time scheduling"
            ) from error
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
        if realtime:
            os.sched_setscheduler(0, policy, priority)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Gives an event that SIGINT and SIGTERM set inside the block, so that a tick is never cut in two.

    A second SIGINT interrupts as usual. Outside the main thread no handler is installed.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(_number: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {
        number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
