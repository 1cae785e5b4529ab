"""A study of pre-trainings: runs that are made once, and tables that grow with every run."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import Popen

from edp_robot.studies import ablation, exploration
from edp_robot.studies.exploration_runs import Pretraining, Result, collect
from edp_robot.studies.jobs import make_missing
from edp_robot.studies.processes import threads_each
from edp_robot.studies.tables import cell


class Study:
    """Makes the runs that are missing, and writes the tables again after each.

    Attributes:
        jobs: All runs.
        results: Results of the complete runs.
        failed: What went wrong with the others that were tried.

    Args:
        options: What is run and written.
        machine: This machine in words.
        start: Starts a run's process. None: as `edp pretrain`, with its share of the cores.

    Raises:
        ValueError: A run was made before with other options.
    """

    def __init__(
        self,
        options: exploration.Options | ablation.Options,
        machine: str,
        start: Callable[[Pretraining], Popen] | None = None,
    ) -> None:
        self.options = options
        self.machine = machine
        self.jobs = options.jobs()
        self.results: dict[Pretraining, Result] = {}
        self.failed: dict[Pretraining, str] = {}
        self._start = start or self.start
        for job in self.jobs:
            job.check()

    def __call__(self) -> bool:
        """Returns whether every run is complete.

        Raises:
            KeyboardInterrupt: Ctrl-C. The runs at work have saved; the same command continues them.
        """
        for job in self.jobs:
            if job.finished():
                self.take(job)
        self.write()
        make_missing(self.jobs, self._start, self.options.processes, self.ended)
        return not self.failed

    def start(self, job: Pretraining) -> Popen:
        """Returns the started process of a run."""
        threads = threads_each(self.options.processes)
        job.note(f"{self.machine}; {threads} threads a run, --processes {self.options.processes}")
        return job.start(threads)

    def ended(self, job: Pretraining, problem: str) -> None:
        """Takes a run whose process has ended, with what went wrong ("" for nothing)."""
        if problem:
            self.fail(job, problem)
        else:
            self.take(job)
            self.write()

    def take(self, job: Pretraining) -> None:
        """Collects a complete run, and prints its line."""
        try:
            self.results[job] = collect(job)
        except (OSError, ValueError) as error:
            self.fail(job, str(error))
            return
        print(f"{line(self.results[job])}, {len(self.results)}/{len(self.jobs)} done", flush=True)

    def fail(self, job: Pretraining, problem: str) -> None:
        """Remembers and prints what went wrong."""
        self.failed[job] = problem
        print(f"{job.task}, {job.name}: failed: {problem}", flush=True)

    def write(self) -> None:
        """Writes the tables and figures of the results so far, if there are any."""
        if self.results:
            self.options.write(list(self.results.values()))


def line(result: Result) -> str:
    """Returns a run's result in one line."""
    job = result.job
    presses = "" if result.presses is None else f", presses {cell(result.presses, 1)}"
    coverage = f"coverage {cell(result.coverage)}"
    return f"{job.task}, {job.method}: {coverage}{presses}, {result.wall_s:.0f} s"
