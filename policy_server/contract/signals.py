"""Handles signals for the length of a block, and restores the previous handlers afterwards."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Handler = Callable[[int, Any], Any]
# What asks a process to end, as far as this system has it. A closed terminal is SIGHUP.
_STOP_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_KEYBOARD_NAMES = ("SIGINT", "SIGQUIT")


def numbers_of(names: tuple[str, ...]) -> list[int]:
    """Returns the numbers of those signals that this system has."""
    return [number for number in signal.Signals if number.name in names]


STOP_SIGNALS = numbers_of(_STOP_NAMES)
KEYBOARD = numbers_of(_KEYBOARD_NAMES)


@contextlib.contextmanager
def handling(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Installs `handlers` (signal number to handler) inside the block.

    Outside the main thread Python allows no handlers, so there it installs none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:  # None: it was not installed by Python
                signal.signal(number, handler)


class Stop:
    """Whether a signal asked to stop. Work looks at it and ends at a safe place.

    Args:
        breaks: Whether a further Ctrl-C raises KeyboardInterrupt anywhere. False: only inside
            `breakable`.
    """

    def __init__(self, breaks: bool = True) -> None:
        # Plain attributes: a lock could be taken twice, by a handler inside a handler.
        self._stopped = False
        self._breaks_outside_s = 0.0 if breaks else math.inf
        self._breaks_from_s = self._breaks_outside_s

    def is_set(self) -> bool:
        """Returns whether a signal came."""
        return self._stopped

    def handle(self, number: int, _frame: Any) -> None:
        """Notes a signal. Raises KeyboardInterrupt where a further Ctrl-C may break in."""
        again = self._stopped and number in KEYBOARD
        self._stopped = True
        if again and time.monotonic() >= self._breaks_from_s:
            # Off already, so that nothing breaks into what is done about the first.
            self._breaks_from_s = self._breaks_outside_s
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def breakable(self, after_s: float = 0.0) -> Iterator[None]:
        """Lets one further Ctrl-C raise KeyboardInterrupt in the block, and none after it.

        Args:
            after_s: How old the block must be for that [s]. An impatient person's second Ctrl-C
                comes before, that of a person who sees a call hang comes after.
        """
        try:
            self._breaks_from_s = time.monotonic() + after_s
            yield
        finally:
            self._breaks_from_s = self._breaks_outside_s


@contextlib.contextmanager
def stop_on_signals(breaks: bool = True) -> Iterator[Stop]:
    """Yields a `Stop` that the first SIGINT, SIGTERM, SIGHUP or SIGQUIT sets.

    A further SIGINT or SIGQUIT raises KeyboardInterrupt. A SIGHUP or SIGQUIT that the process was
    started to ignore (nohup) stays ignored.

    Args:
        breaks: False: only inside the block `Stop.breakable` a further signal raises.
    """
    stop = Stop(breaks)
    always = numbers_of(("SIGINT", "SIGTERM"))
    handled = [n for n in STOP_SIGNALS if n in always or signal.getsignal(n) != signal.SIG_IGN]
    with handling(dict.fromkeys(handled, stop.handle)):
        yield stop


@contextlib.contextmanager
def noting_hang_up() -> Iterator[threading.Event]:
    """Yields an event that SIGHUP sets, so that it does not end a process that is still starting.

    Systems without SIGHUP never set it.
    """
    hung_up = threading.Event()
    hang_up = numbers_of(("SIGHUP",))
    with handling({number: lambda *_: hung_up.set() for number in hang_up}):
        yield hung_up
