"""Loads another policy beside the one that serves, so that the swap needs no stop."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable

from policy_server.contract.errors import BackendError, BundleError, ServerError
from policy_server.serving.served_policy import ServedPolicy

Done = Callable[["ServedPolicy | None", "str | None"], None]
_NICE = 10  # Niceness of the loading thread: the serving thread comes first.
_END_S = 10.0  # Longest time that the process waits at its end for a load.


class Reloader:
    """Loads policies in its own thread, one at a time.

    Attributes:
        busy: Whether a load is under way.

    Args:
        load: Returns a policy that passed its self-test. It raises what `ServedPolicy` raises.
    """

    def __init__(self, load: Callable[[], ServedPolicy]):
        self._load = load
        self._results: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False

    def start(self, current: ServedPolicy, done: Done) -> None:
        """Begins to load. When the load has ended, `poll` calls `done`.

        Args:
            current: The policy that serves. The new one must fit the same robots.
            done: Takes (policy, None), or (None, reason) where loading failed.

        Raises:
            ServerError: A load is under way.
        """
        if self.busy:
            raise ServerError("a reload is under way already; wait for it to end")
        self.busy = True
        self._thread = threading.Thread(
            target=self._work, args=(current, done), name="reload", daemon=True
        )
        self._thread.start()

    def poll(self) -> None:
        """Calls `done` if a load has ended."""
        with contextlib.suppress(queue.Empty):
            finish = self._results.get_nowait()
            self.busy = False
            finish()

    def close(self) -> None:
        """Waits for a load that is under way: cutting off a runtime's thread aborts the process."""
        if self._thread is not None:
            self._thread.join(_END_S)

    def _work(self, current: ServedPolicy, done: Done) -> None:
        # On Linux a thread has its own priority.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        policy = None
        reason = None
        try:
            loaded = self._load()
            loaded.check_replaces(current)
            policy = loaded
        except (BundleError, BackendError, ServerError, OSError) as error:
            reason = str(error)
        except Exception as error:  # The old policy serves on, whatever the new one is.
            reason = f"{type(error).__name__}: {error}"
        self._results.put(lambda: done(policy, reason))
