"""Handles signals for the length of a block, and restores the previous handlers afterwards."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Handler = Callable[[int, Any], Any]


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
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yields an event that the first SIGINT or SIGTERM sets, so that work can end at a safe place.

    A second SIGINT raises KeyboardInterrupt at once.
    """
    stop = threading.Event()

    def request(number: int, _frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    with handling({signal.SIGINT: request, signal.SIGTERM: request}):
        yield stop


@contextlib.contextmanager
def noting_hang_up() -> Iterator[threading.Event]:
    """Yields an event that SIGHUP sets, so that it does not end a process that is still starting.

    Systems without SIGHUP never set it.
    """
    hung_up = threading.Event()
    numbers = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
    with handling({number: lambda *_: hung_up.set() for number in numbers}):
        yield hung_up
