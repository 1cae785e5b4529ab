"""The study of distillation: 15 denoising steps against 4, 2 and 1 (`edp study distillation`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edp_robot.methods.ranges import Ranged, Seed
from edp_robot.studies import distillation_report as report
from edp_robot.studies.distillation_measures import ActsFn, Quality, latencies
from edp_robot.studies.distillation_runs import (
    TEACHERS,
    Policy,
    Training,
    policies,
    run_folder,
    trainings,
)
from edp_robot.studies.jobs import make_missing
from edp_robot.studies.processes import threads_each
from edp_robot.studies.study_options import check_names, command_line
from edp_robot.training.source import Source
from policy_server.contract.commit import source_commit
from policy_server.contract.disk.files import write_json
from policy_server.contract.disk.outputs import OutFolder


@dataclass(frozen=True)
class Options(Ranged):
    """What is run, and where the runs and the table lie.

    Attributes:
        tasks: Any of modes, arm-press, arm-reach-left, gym:FetchReach-v4.
        episodes: Episodes of every return; the same ones for all policies of a task.
        n_latency: Calls of each policy on each runtime.
        seed: Seeds all random generators.
        runs: Folder for runs, results and logs.
        out: Folder for table.md and return_latency.png.
        processes: Trainings at the same time. Each gets its share of the cores.
    """

    tasks: tuple[str, ...] = tuple(TEACHERS)
    episodes: int = 300
    n_latency: int = 2_000
    seed: Seed = 0
    runs: OutFolder = Path("runs/distillation")
    out: OutFolder = Path("results/distillation")
    processes: int = 2

    def __post_init__(self) -> None:
        """Checks the options."""
        check_names("task", self.tasks, TEACHERS)
        super().__post_init__()
        if not self.tasks:
            raise ValueError(f"nothing to run: give --tasks of {', '.join(TEACHERS)}")

    @property
    def root(self) -> Path:
        """Folder of this seed's runs and measurements, apart from those of other seeds."""
        return self.runs / f"seed-{self.seed}"


class DistillationStudy:
    """Trains and measures what is missing, takes all times again, and writes the table.

    Attributes:
        failed: What went wrong with the trainings that failed.

    Args:
        options: What is run.
        machine: This machine in words.
        runtimes: By name, functions that make an exported graph callable.
        summary: Returns percentiles of times (n,) [us], as policy_server.bench.statistics does.
    """

    def __init__(
        self,
        options: Options,
        machine: str,
        runtimes: dict[str, Callable[[bytes], ActsFn]],
        summary: Callable[[np.ndarray], dict[str, Any]],
    ) -> None:
        self.options = options
        self.machine = machine
        self.runtimes = runtimes
        self.summary = summary
        self.failed: dict[Training, str] = {}

    def __call__(self) -> bool:
        """Returns whether every training is complete.

        Raises:
            KeyboardInterrupt: Ctrl-C. The runs at work have saved; the same command continues them.
        """
        if not self.train():
            return False
        torch.set_num_threads(1)
        measured = {task: self.quality(task) for task in self.options.tasks}
        results = {task: self._timed(task, *found) for task, found in measured.items()}
        report.write(self.options.out, results, self.about())
        return True

    def train(self) -> bool:
        """Makes the runs that are missing, wave after wave; returns whether all ended well."""
        o = self.options
        threads = threads_each(o.processes)
        for wave in trainings(o.root, o.tasks, o.seed):
            make_missing(wave, lambda job: job.start(threads), o.processes, self.ended)
            if self.failed:
                return False
        return True

    def ended(self, training: Training, problem: str) -> None:
        """Prints that a training ended, and remembers what went wrong."""
        if problem:
            self.failed[training] = problem
        said = f"failed: {problem}; log: {training.log_path}" if problem else "done"
        print(f"{training.name}: {said}", flush=True)

    def quality(self, task: str) -> tuple[list[Policy], Source, report.Numbers]:
        """Measures a task's policies where that is missing; returns (policies, source, numbers)."""
        o = self.options
        found, reference, source = policies(o.root, task)
        path = run_folder(o.root, task) / f"quality-{o.episodes}.json"
        return found, source, Quality(path, source, reference, o.episodes, o.seed).measure(found)

    def _timed(
        self, task: str, found: list[Policy], source: Source, quality: report.Numbers
    ) -> report.TaskResult:
        """Times every policy on every runtime. All else is done by then, so nothing disturbs."""
        print(f"{task}: timing {len(found)} policies", flush=True)
        samples = latencies(found, source, self.runtimes, self.options.n_latency)
        said = {name: self.summary(times) for name, times in samples.items()}
        write_json(run_folder(self.options.root, task) / "latency.json", said)
        return report.TaskResult([(p.family, p.n_calls) for p in found], quality, said)

    def about(self) -> str:
        """Returns command, machine and commit in one sentence."""
        command = command_line("distillation", self.options)
        return f"Made by `{command}`; {self.machine}; commit {source_commit()[:12]}."
