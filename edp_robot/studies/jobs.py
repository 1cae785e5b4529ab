"""One training of a study: a run folder that `edp` makes, with its result and log beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any, Generic, TypeVar

from edp_robot.studies.processes import run_all, start_logged
from policy_server.contract.disk.files import write_json

EDP = [sys.executable, "-m", "edp_robot.cli"]


class Job:
    """A training by one `edp` command, in a process of its own. A subclass is hashable."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        raise NotImplementedError

    def words(self) -> list[str]:
        """Returns the command and its options, without files."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What the run is called in messages."""
        return self.folder.name

    def check(self) -> None:
        """Raises ValueError where the folder holds a run that was made with other options."""

    @property
    def result_path(self) -> Path:
        """The file of the result, which is there once the run is complete."""
        return self.beside(".json")

    @property
    def log_path(self) -> Path:
        """The file of the process's output."""
        return self.beside(".log")

    def beside(self, suffix: str) -> Path:
        """Returns the file beside the run folder with this suffix."""
        return self.folder.with_name(self.folder.name + suffix)

    def args(self) -> list[str]:
        """Returns the arguments of `edp`."""
        files = ["--out", str(self.folder), "--json", str(self.result_path)]
        return [*self.words(), *files, "--resume"]

    def finished(self) -> bool:
        """Returns whether the result is there, and whole."""
        return bool(read_result(self.result_path))

    def start(self, threads: int) -> Popen:
        """Returns the started process."""
        return start_logged([*EDP, *self.args()], self.log_path, threads)


class NotedJob(Job):
    """A job that writes down its options before it is made, and is not continued with others."""

    def options(self) -> dict[str, Any]:
        """Returns the options that a continued run must share with the interrupted one."""
        raise NotImplementedError

    @property
    def made_path(self) -> Path:
        """The file that says how the run was made: options, command, machine."""
        return self.beside(".made.json")

    def note(self, machine: str) -> None:
        """Writes down how the run is made, before it is made."""
        command = f"edp {' '.join(self.args())}"
        write_json(self.made_path, {**self.options(), "command": command, "machine": machine})

    def check(self) -> None:
        """Raises ValueError where the folder holds a run that was made with other options."""
        made = read_result(self.made_path)
        wanted = self.options()
        exists = self.folder.exists() or self.result_path.exists()
        other = {k: made[k] for k, v in wanted.items() if made.get(k, v) != v}
        if exists and other:
            asked = {k: wanted[k] for k in other}
            raise ValueError(
                f"{self.folder} was made with {_said(other)}, and {_said(asked)} is asked now; "
                "choose another --runs, or the options that it was made with"
            )


J = TypeVar("J", bound=Job)


def make_missing(
    jobs: Iterable[J], start: Callable[[J], Popen], at_once: int, ended: Callable[[J, str], None]
) -> None:
    """Runs the jobs that are not finished.

    Args:
        jobs: The jobs in order.
        start: Starts a job's process.
        at_once: How many run at the same time.
        ended: Called with each job that ended and what went wrong ("" for nothing).

    Raises:
        KeyboardInterrupt: Ctrl-C. The runs at work have saved; the same command continues them.
    """

    def checked(job: J, problem: str) -> None:
        if not problem and not job.finished():
            problem = f"ended without writing {job.result_path}"
        ended(job, problem)

    run_all([job for job in jobs if not job.finished()], start, at_once, checked)


class JobStudy(Generic[J]):
    """Makes the runs that are missing, and writes the tables again after each.

    A subclass says how a run is started, what it gave, and how tables are written.

    Attributes:
        jobs: All runs.
        failed: What went wrong with those that were tried and are not complete.

    Args:
        waves: The runs, in groups. A group starts when the one before it has ended.
        at_once: How many run at the same time.

    Raises:
        ValueError: A run was made before with other options.
    """

    def __init__(self, waves: Sequence[Sequence[J]], at_once: int) -> None:
        self.jobs = [job for wave in waves for job in wave]
        self.failed: dict[J, str] = {}
        self._waves = waves
        self._at_once = at_once
        self._n_done = 0
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
        for wave in self._waves:
            ready = [job for job in wave if self.can_start(job)]
            make_missing(ready, self.start, self._at_once, self.ended)
        return not self.failed

    def start(self, job: J) -> Popen:
        """Returns the started process of a run."""
        raise NotImplementedError

    def can_start(self, job: J) -> bool:
        """Returns whether what the run needs is there."""
        return True

    def collect(self, job: J) -> str:
        """Keeps what a complete run gave; returns its line.

        Raises:
            OSError, ValueError: The run folder lacks what its result promises.
        """
        raise NotImplementedError

    def write(self) -> None:
        """Writes the tables and figures of the results so far, if there are any."""
        raise NotImplementedError

    def take(self, job: J) -> None:
        """Collects a complete run, and prints its line."""
        try:
            said = self.collect(job)
        except (OSError, ValueError) as error:
            self._fail(job, str(error))
            return
        self._n_done += 1
        print(f"{said}, {self._n_done}/{len(self.jobs)} done", flush=True)

    def ended(self, job: J, problem: str) -> None:
        """Takes a run whose process has ended, with what went wrong ("" for nothing)."""
        if problem:
            self._fail(job, problem)
        else:
            self.take(job)
            self.write()

    def _fail(self, job: J, problem: str) -> None:
        self.failed[job] = problem
        print(f"{job.title}: failed: {problem}; log: {job.log_path}", flush=True)


def _said(options: dict[str, Any]) -> str:
    return ", ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items())


def read_result(path: Path) -> dict[str, Any]:
    """Returns a JSON file's object, or {} where there is no file or a kill left a part of it."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
