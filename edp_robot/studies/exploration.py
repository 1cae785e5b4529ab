"""The study of exploration: each method in each maze, several seeds, one table (`edp study exploration`)."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sim.mazes import task_names

from . import exploration_report as report
from .exploration_runs import ARM, MAZE_PREFIX, METHODS, Job, Result, collect
from .processes import Child, run_all, start_logged

EDP = [sys.executable, "-m", "edp_robot.cli"]


@dataclass(frozen=True)
class Options:
    """What is run, and where the runs and the tables lie."""

    mazes: tuple[str, ...]  # a, b, ...; empty for the arm alone
    methods: tuple[str, ...] = tuple(METHODS)
    n_seeds: int = 3
    env_steps: int = 100_000
    seed: int = 0
    runs: Path = Path("runs/exploration")
    out: Path = Path("results/exploration")
    processes: int = 1
    arm: bool = False
    arm_env_steps: int = 64_000

    def __post_init__(self) -> None:
        mazes = [name.removeprefix("maze-").removeprefix("square-") for name in self.mazes]
        object.__setattr__(self, "mazes", tuple(dict.fromkeys(mazes)))
        object.__setattr__(self, "methods", tuple(dict.fromkeys(self.methods)))
        _known("maze", self.mazes, [name.removeprefix(MAZE_PREFIX) for name in task_names()])
        _known("method", self.methods, list(METHODS))
        for name in ("n_seeds", "env_steps", "processes", "arm_env_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not (self.mazes or self.arm) or not self.methods:
            raise ValueError("nothing to run: give --mazes or --arm, and --methods")

    def tasks(self) -> list[str]:
        """Returns the names of the tasks, mazes first."""
        return [MAZE_PREFIX + maze for maze in self.mazes] + [ARM] * self.arm

    def jobs(self) -> list[Job]:
        """Returns the runs in the order in which they are made: random actions first, they are cheap."""
        pairs = [(task, method) for task in self.tasks() for method in self.methods]
        pairs.sort(key=lambda pair: pair[1] != "random")
        steps = {ARM: self.arm_env_steps}
        return [Job(self.runs, t, m, steps.get(t, self.env_steps), self.n_seeds, self.seed) for t, m in pairs]

    def command(self) -> str:
        """Returns the command that makes the same tables, every option written out."""
        words = ["edp", "study", "exploration", "--mazes", *self.mazes, "--methods", *self.methods]
        for name in ("n_seeds", "env_steps", "seed", "runs", "out", "processes"):
            words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return shlex.join([*words, *(["--arm", "--arm-env-steps", str(self.arm_env_steps)] if self.arm else [])])


class Study:
    """Makes the runs that are missing, and rewrites the tables after each.

    Args:
        options: What is run.
        machine: This machine in words.
        start: Starts a run's process; given in tests.

    Attributes:
        results: of the complete runs.
        failed: what went wrong with the others that were tried.

    Raises:
        ValueError: a run lies there that was made with other options.
    """

    def __init__(self, options: Options, machine: str, start: Callable[[Job], Child] | None = None) -> None:
        self.options, self.jobs = options, options.jobs()
        self.start = start or (lambda job: process(job, machine, options.processes))
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
        run_all(missing, self.start, self.options.processes, self.finished)
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
        print(f"{report.line(self.results[job])}, {len(self.results)}/{len(self.jobs)} done", flush=True)

    def fail(self, job: Job, problem: str) -> None:
        """Remembers and prints what went wrong."""
        self.failed[job] = problem
        print(f"{job.task}, {job.method}: failed: {problem}", flush=True)

    def write(self) -> None:
        """Writes the tables and figures of what is there; nothing before the first result."""
        if self.results:
            o = self.options
            report.write(o.out, o.tasks(), o.methods, list(self.results.values()), o.command())


def process(job: Job, machine: str, processes: int) -> Child:
    """Returns the started `edp pretrain` of a run, with its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // processes)
    job.note(f"{machine}; {threads} threads a run, --processes {processes}")
    return start_logged([*EDP, *job.args()], job.log_path, threads)


def _known(kind: str, names: tuple[str, ...], known: list[str]) -> None:
    """Raises ValueError for names that do not exist; the message lists those that do."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no {kind} {', '.join(map(repr, unknown))}; there are: {', '.join(known)}")
