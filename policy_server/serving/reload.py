"""Another policy without a stop: loaded and tested beside the one that serves, swapped in between two batches."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from policy_server.contract.errors import BackendError, BundleError
from policy_server.serving.served_policy import ServedPolicy
from policy_server.transport.address import ServerError

Done = Callable[["ServedPolicy | None", "str | None"], None]
_NICE = 10  # of the loading thread: the serving one comes first
_END_S = 10.0  # that the process waits in the end for a policy that is being loaded


class Reloader:
    """Loads policies in a thread of its own, one at a time.

    Args:
        load: Returns a policy that passed its self-test; raises like `ServedPolicy`.
    """

    def __init__(self, load: Callable[[], ServedPolicy]):
        self._load = load
        self._results: queue.SimpleQueue[tuple[Done, ServedPolicy | None, str | None]] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self.busy = False

    def start(self, current: ServedPolicy, done: Done) -> None:
        """Begins to load; `poll` calls `done(policy, None)` or `done(None, why it failed)` when it ended.

        Raises:
            ServerError: Another one is under way.
        """
        if self.busy:
            raise ServerError("a reload is under way already; wait for it to end")
        self.busy = True
        self._thread = threading.Thread(
            target=self._work, args=(current, done), name="reload", daemon=True
        )
        self._thread.start()

    def poll(self) -> None:
        """Hands over the result of a load that has ended, if there is one."""
        with contextlib.suppress(queue.Empty):
            done, policy, error = self._results.get_nowait()
            self.busy = False
            done(policy, error)

    def close(self) -> None:
        """Waits for a load that is under way: a runtime whose thread the interpreter cuts off aborts the process."""
        if self._thread is not None:
            self._thread.join(_END_S)

    def _work(self, current: ServedPolicy, done: Done) -> None:
        with contextlib.suppress(
            OSError, AttributeError
        ):  # Linux: a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        result: tuple[Any, Any]
        try:
            policy = self._load()
            policy.check_replaces(current)
            result = policy, None
        except (BundleError, BackendError, ServerError, OSError) as error:
            result = None, str(error)
        except Exception as error:  # the old policy goes on, whatever the new one is
            result = None, f"{type(error).__name__}: {error}"
        self._results.put((done, *result))
