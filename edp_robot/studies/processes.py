"""Runs several child processes at a time, and lets them save on Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any, TypeVar

from policy_server.contract.signals import stop_on_signals

POLL_S = 0.2
# Threads that spin while they wait make the processes beside them more than seven times slower.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
T = TypeVar("T")


def threads_each(at_once: int) -> int:
    """Returns how many threads each of `at_once` processes gets of this machine's cores."""
    known = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, n_cores // at_once)


def start_logged(command: list[str], log: Path, threads: int) -> Popen:
    """Returns the started command, whose output is added to the file `log`.

    The process has a session of its own, so a terminal's Ctrl-C reaches it only through us.

    Args:
        command: The words of the command.
        log: File for the output. The process locks it while it runs.
        threads: Threads that the process may use.

    Raises:
        BlockingIOError: A process with this log still runs.
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
        streams: dict[str, Any] = {"stdin": DEVNULL, "stdout": file, "stderr": file}
        return Popen(command, env=env, start_new_session=True, **streams)


def run_all(
    jobs: Iterable[T], start: Callable[[T], Popen], at_once: int, finished: Callable[[T, str], None]
) -> None:
    """Runs the jobs in order, `at_once` at a time.

    Args:
        jobs: The jobs; hashable.
        start: Starts a job. An OSError counts as the job's failure.
        at_once: How many jobs run at the same time.
        finished: Called with each job that ended and what went wrong ("" for nothing).

    Raises:
        KeyboardInterrupt: A signal asked to stop. The children were interrupted and have ended.
    """
    waiting = deque(jobs)
    running: dict[T, Popen] = {}
    with stop_on_signals() as stop:
        try:
            while (waiting or running) and not stop.is_set():
                while waiting and len(running) < at_once:
                    job = waiting.popleft()
                    try:
                        running[job] = start(job)
                    except OSError as error:
                        finished(job, str(error))
                polled = {job: child.poll() for job, child in running.items()}
                ended = {job: status for job, status in polled.items() if status is not None}
                for job, status in ended.items():
                    del running[job]
                    finished(job, f"ended with status {status}" if status else "")
                if running and not ended:
                    time.sleep(POLL_S)
        finally:
            interrupt(running.values())
        if stop.is_set():
            raise KeyboardInterrupt


def interrupt(children: Collection[Popen]) -> None:
    """Sends SIGINT to all, so that they save, and waits for them.

    Raises:
        KeyboardInterrupt: A second Ctrl-C came, which was passed on.
    """
    for child in children:
        child.send_signal(signal.SIGINT)
    try:
        for child in children:
            child.wait()
    except KeyboardInterrupt:
        for child in children:
            child.send_signal(signal.SIGINT)
        raise
