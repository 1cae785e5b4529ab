"""The study of distillation: what fewer denoising steps cost, and what they save (`edp study distillation`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edp_robot.studies import distillation_report as report
from edp_robot.studies.distillation_measures import ActsFn, Quality, latencies
from edp_robot.studies.distillation_runs import TEACHERS, Policy, Training, policies, trainings
from edp_robot.studies.exploration import known
from edp_robot.studies.processes import run_all
from edp_robot.training.runs import source_commit, write_atomic
from edp_robot.training.source import Source


@dataclass(frozen=True)
class Options:
    """What is run, and where the runs and the table lie."""

    tasks: tuple[str, ...] = tuple(TEACHERS)
    episodes: int = 300
    n_latency: int = 2_000
    seed: int = 0
    runs: Path = Path("runs/distillation")
    out: Path = Path("results/distillation")
    processes: int = 2

    def __post_init__(self) -> None:
        known("task", self.tasks, list(TEACHERS))
        for name in ("episodes", "n_latency", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not self.tasks:
            raise ValueError(f"nothing to run: give --tasks of {', '.join(TEACHERS)}")

    @property
    def root(self) -> Path:
        """Folder of what this seed made: no run or measurement of another passes for it."""
        return self.runs / f"seed-{self.seed}"


class DistillationStudy:
    """Trains what is missing, measures what is missing, times everything anew, and writes the table.

    Args:
        options: What is run.
        machine: This machine in words.
        runtimes: What makes an exported graph callable, by name.
        summary: Percentiles of times (n,) [us], as policy_server.bench.statistics.summary gives them.
    """

    def __init__(
        self,
        options: Options,
        machine: str,
        runtimes: dict[str, Callable[[bytes], ActsFn]],
        summary: Callable[[np.ndarray], dict[str, Any]],
    ) -> None:
        self.options, self.machine, self.runtimes, self.summary = (
            options,
            machine,
            runtimes,
            summary,
        )
        self.failed: dict[Training, str] = {}

    def __call__(self) -> bool:
        """Returns whether all is there.

        Raises:
            KeyboardInterrupt: Ctrl-C; the runs at work have saved, and the same command goes on with them.
        """
        if not self.train():
            return False
        torch.set_num_threads(1)
        measured = {task: self.quality(task) for task in self.options.tasks}
        results = {task: self.timed(task, *found) for task, found in measured.items()}
        report.write(self.options.out, results, self.about())
        return True

    def train(self) -> bool:
        """Makes the runs that are missing, wave after wave; returns whether all ended well."""
        o = self.options
        threads = max(1, (os.cpu_count() or 1) // o.processes)
        for wave in trainings(o.root, o.tasks, o.seed):
            missing = [t for t in wave if not t.finished()]
            run_all(missing, lambda t: t.start(threads), o.processes, self.ended)
            if self.failed:
                return False
        return True

    def ended(self, training: Training, problem: str) -> None:
        """Takes note of a training that ended."""
        if not problem and not training.finished():
            problem = f"ended without writing {training.result_path}"
        if problem:
            self.failed[training] = problem
        print(
            f"{training.name}: {f'failed: {problem}; log: {training.log_path}' if problem else 'done'}",
            flush=True,
        )

    def folder(self, task: str) -> Path:
        """Returns where a task's measurements lie."""
        return Training(self.options.root, f"{task}/x", "", 0).folder.parent

    def quality(self, task: str) -> tuple[list[Policy], Source, report.Numbers]:
        """Measures a task's policies where that is missing; returns them, their source, and what was measured."""
        o = self.options
        found, reference, source = policies(o.root, task)
        path = self.folder(task) / f"quality-{o.episodes}.json"
        return found, source, Quality(path, source, reference, o.episodes, o.seed).measure(found)

    def timed(
        self, task: str, found: list[Policy], source: Source, quality: report.Numbers
    ) -> report.TaskResult:
        """Times every policy on every runtime; all else is done by then, so that nothing else runs."""
        print(f"{task}: timing {len(found)} policies", flush=True)
        samples = latencies(found, source, self.runtimes, self.options.n_latency)
        said = {name: self.summary(times) for name, times in samples.items()}
        write_atomic(self.folder(task) / "latency.json", json.dumps(said, indent=1).encode())
        return report.TaskResult([(p.family, p.n_calls) for p in found], quality, said)

    def about(self) -> str:
        """Returns command, machine and commit in words."""
        o = self.options
        words = [
            "edp study distillation --tasks",
            *o.tasks,
            "--episodes",
            str(o.episodes),
            "--seed",
            str(o.seed),
        ]
        return f"{' '.join(words)}; {self.machine}; commit {source_commit()[:12]}"
