"""A study of pre-trainings: runs that are made once, and tables that grow with every run."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import Popen

from edp_robot.studies import ablation, exploration
from edp_robot.studies.exploration_runs import Pretraining, Result, collect
from edp_robot.studies.jobs import JobStudy
from edp_robot.studies.processes import threads_each
from edp_robot.studies.tables import cell


class Study(JobStudy[Pretraining]):
    """A study of pre-trainings.

    Attributes:
        results: Results of the complete runs.

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
        super().__init__([options.jobs()], options.processes)
        self.options = options
        self.machine = machine
        self.results: dict[Pretraining, Result] = {}
        self._start = start

    def start(self, job: Pretraining) -> Popen:
        """Returns the started process of a run."""
        if self._start:
            return self._start(job)
        threads = threads_each(self.options.processes)
        job.note(f"{self.machine}; {threads} threads a run, --processes {self.options.processes}")
        return job.start(threads)

    def collect(self, job: Pretraining) -> str:
        """Keeps what a complete run gave; returns its line."""
        self.results[job] = collect(job)
        return line(self.results[job])

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
