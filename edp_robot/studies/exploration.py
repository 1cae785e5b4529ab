"""The study of exploration: each method in each maze, several seeds, one table (`edp study exploration`)."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edp_robot.studies import exploration_report as report
from edp_robot.studies.exploration_runs import ARM, MAZE_PREFIX, METHODS, Job
from edp_robot.studies.processes import Child
from edp_robot.studies.study import Study, process
from sim.tasks.mazes import task_names


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
        known("maze", self.mazes, [name.removeprefix(MAZE_PREFIX) for name in task_names()])
        known("method", self.methods, list(METHODS))
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
        return [
            Job(self.runs, t, m, steps.get(t, self.env_steps), self.n_seeds, self.seed)
            for t, m in pairs
        ]

    def command(self) -> str:
        """Returns the command that makes the same tables, every option written out."""
        words = ["edp", "study", "exploration", "--mazes", *self.mazes, "--methods", *self.methods]
        for name in ("n_seeds", "env_steps", "seed", "runs", "out", "processes"):
            words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return shlex.join(
            [*words, *(["--arm", "--arm-env-steps", str(self.arm_env_steps)] if self.arm else [])]
        )


def study(options: Options, machine: str, start: Callable[[Job], Child] | None = None) -> Study:
    """Returns the study of `options`, not yet begun.

    Args:
        options: What is run.
        machine: This machine in words.
        start: Starts a run's process; given in tests.

    Raises:
        ValueError: a run lies there that was made with other options.
    """
    o = options
    return Study(
        o.jobs(),
        o.processes,
        start or (lambda job: process(job, machine, o.processes)),
        lambda results: report.write(o.out, o.tasks(), o.methods, results, o.command()),
    )


def known(kind: str, names: tuple[str, ...], known: list[str]) -> None:
    """Raises ValueError for names that do not exist; the message lists those that do."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"no {kind} {', '.join(map(repr, unknown))}; there are: {', '.join(known)}"
        )
