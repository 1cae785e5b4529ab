"""What every study is: runs that are made once, in processes of their own, and tables that grow with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from edp_robot.studies.exploration_report import line
from edp_robot.studies.exploration_runs import Job, Result, collect
from edp_robot.studies.processes import Child, run_all, start_logged

EDP = [sys.executable, "-m", "edp_robot.cli"]


class Study:
    """Makes the runs that are missing, and rewrites the tables after each.

    Args:
        jobs: What is run, in this order.
        processes: Runs beside each other.
        start: Starts a run's process.
        write: Writes the tables and figures of the complete runs.

    Attributes:
        results: of the complete runs.
        failed: what went wrong with the others that were tried.

    Raises:
        ValueError: a run lies there that was made with other options.
    """

    def __init__(
        self,
        jobs: list[Job],
        processes: int,
        start: Callable[[Job], Child],
        write: Callable[[list[Result]], None],
    ) -> None:
        self.jobs, self.processes, self.start, self.write_results = jobs, processes, start, write
        self.results: dict[Job, Result] = {}
        self.failed: dict[Job, str] = {}
        for job in self.jobs:
            job.check()

    def __call__(self) -> bool:
        """Returns whether every run is complete.

        Raises:
            KeyboardInterrupt: Ctrl-C; the runs at work have saved, and the same command goes on with them.
        """
        for job in self.jobs:
            if job.finished():
                self.take(job)
        self.write()
        missing = [job for job in self.jobs if not job.finished()]
        run_all(missing, self.start, self.processes, self.finished)
        return not self.failed

    def finished(self, job: Job, problem: str) -> None:
        """Takes a run whose process has ended, with what went wrong ('' for nothing)."""
        if not problem and not job.finished():
            problem = f"ended without writing {job.result_path}"
        if problem:
            self.fail(job, problem)
        else:
            self.take(job)
            self.write()

    def take(self, job: Job) -> None:
        """Collects a complete run, and prints its line."""
        try:
            self.results[job] = collect(job)
        except (OSError, ValueError) as error:
            self.fail(job, str(error))
            return
        print(f"{line(self.results[job])}, {len(self.results)}/{len(self.jobs)} done", flush=True)

    def fail(self, job: Job, problem: str) -> None:
        """Remembers and prints what went wrong."""
        self.failed[job] = problem
        print(f"{job.task}, {job.name}: failed: {problem}", flush=True)

    def write(self) -> None:
        """Writes the tables and figures of what is there; nothing before the first result."""
        if self.results:
            self.write_results(list(self.results.values()))


def process(job: Job, machine: str, processes: int) -> Child:
    """Returns the started `edp pretrain` of a run, with its share of the cores."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads = max(1, cores // processes)
    job.note(f"{machine}; {threads} threads a run, --processes {processes}")
    return start_logged([*EDP, *job.args()], job.log_path, threads)
