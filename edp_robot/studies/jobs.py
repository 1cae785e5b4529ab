"""One training of a study: a run folder that `edp` makes, with its result and log beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import Popen
from typing import Any, TypeVar

from edp_robot.studies.processes import run_all, start_logged

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


def read_result(path: Path) -> dict[str, Any]:
    """Returns a JSON file's object, or {} where there is no file or a kill left a part of it."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
