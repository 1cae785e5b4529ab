"""Several child processes at a time, stopped gently on Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from policy_server.contract.signals import stop_on_signals

POLL_S = 0.2
# Threads that wait by spinning take the cores from those at work: beside other processes, seven times slower and more.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
T = TypeVar("T")


class Child(Protocol):
    """What is asked of a process; `subprocess.Popen` has it."""

    def poll(self) -> int | None:
        """Returns the exit status, or None while it runs."""
        ...

    def send_signal(self, sig: int) -> None:
        """Sends a signal; nothing where it has ended."""
        ...

    def wait(self) -> int:
        """Returns the exit status once it has ended."""
        ...


def start_logged(command: list[str], log: Path, threads: int) -> subprocess.Popen:
    """Returns the command as a process in a session of its own, so that a terminal's Ctrl-C reaches it through us only.

    Raises:
        BlockingIOError: a process with this log still runs; the log is locked for as long as it does.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"an earlier process of this run is still at work (it holds {log})"
            ) from None
        file.write(f"{time.strftime('%F %T')} $ {' '.join(command)}\n")
        file.flush()
        env = {**PATIENT, **os.environ, "OMP_NUM_THREADS": str(threads)}
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        return subprocess.Popen(command, env=env, start_new_session=True, **streams)


def run_all(
    jobs: Iterable[T], start: Callable[[T], Child], at_once: int, finished: Callable[[T, str], None]
) -> None:
    """Runs the jobs, `at_once` at a time, in order; on Ctrl-C interrupts the children, waits, raises KeyboardInterrupt.

    Args:
        jobs: What is run; hashable.
        start: Starts one; an OSError of its counts as that job's failure.
        at_once: How many run beside each other.
        finished: Called with each job that ended, and what went wrong ('' if nothing).
    """
    waiting, running = deque(jobs), {}
    with stop_on_signals() as stop:
        try:
            while (waiting or running) and not stop.is_set():
                while waiting and len(running) < at_once:
                    job = waiting.popleft()
                    try:
                        running[job] = start(job)
                    except OSError as error:
                        finished(job, str(error))
                ended = {
                    job: status
                    for job, child in running.items()
                    if (status := child.poll()) is not None
                }
                for job, status in ended.items():
                    del running[job]
                    finished(job, f"ended with status {status}" if status else "")
                if running and not ended:
                    time.sleep(POLL_S)
        finally:
            interrupt(running.values())
        if stop.is_set():
            raise KeyboardInterrupt


def interrupt(children: Collection[Child]) -> None:
    """Sends SIGINT to all, so that they save, and returns when they have ended; a second Ctrl-C hurries them."""
    for child in children:
        child.send_signal(signal.SIGINT)
    try:
        for child in children:
            child.wait()
    except KeyboardInterrupt:
        for child in children:
            child.send_signal(signal.SIGINT)
        raise


def read_result(path: Path) -> dict[str, Any]:
    """Returns a JSON file's object; empty where there is none, or a kill left a part of it."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
