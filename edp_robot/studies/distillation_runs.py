"""The runs of the study of distillation: teachers, students, and which policies they are measured as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.studies.processes import Child, read_result, start_logged
from edp_robot.studies.study import EDP
from edp_robot.training.distill import load_student
from edp_robot.training.source import load_source

TEACHER_STEPS = (1, 2, 4, 8, 15)
REFERENCE_STEPS = 64
STUDENT_STEPS = (1, 2, 4)
FETCH = "gym:FetchReach-v4"
# how a task's teacher is made: (name of the run, arguments of `edp`); {name} stands for the folder of an earlier run
TEACHERS: dict[str, tuple[tuple[str, str], ...]] = {
    "modes": (("modes/teacher", "clone --task modes"),),
    "arm-press": (
        ("arm", "pretrain --task arm"),
        ("arm-press/teacher", "finetune --task arm-press --from {arm} --eval-every 8000"),
    ),
    "arm-reach-left": (
        ("arm", "pretrain --task arm"),
        ("arm-reach-left/teacher", "finetune --task arm-reach-left --from {arm} --eval-every 8000"),
    ),
    FETCH: ((f"{FETCH}/teacher", f"clone --task {FETCH}"),),
}
STUDENTS = {  # name: arguments; of 2 and 4 calls they are made from the same network, which is trained once
    "paired": "--method paired --set n_chunks=60",
    "consistency": "--method consistency --set n_chunks=60",
    "paired-small": "--method paired --width 64 --n-layers 2 --set n_chunks=60",
}
SMALL = "paired-small"


@dataclass(frozen=True)
class Training:
    """One `edp` training: its folder RUNS/<name>, and beside it its result (.json) and what it said (.log)."""

    runs: Path
    name: str
    words: str
    seed: int

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / self.name.replace(":", "-")

    @property
    def result_path(self) -> Path:
        """The result, there once the run is complete."""
        return self.folder.parent / (self.folder.name + ".json")

    @property
    def log_path(self) -> Path:
        """What the process said."""
        return self.folder.parent / (self.folder.name + ".log")

    def args(self) -> list[str]:
        """Returns the arguments of `edp`."""
        places = {"arm": Training(self.runs, "arm", "", 0).folder}
        options = [
            "--seed",
            str(self.seed),
            "--out",
            str(self.folder),
            "--json",
            str(self.result_path),
            "--resume",
        ]
        return [*self.words.format(**places).split(), *options]

    def finished(self) -> bool:
        """Returns whether the result is there, and whole."""
        return bool(read_result(self.result_path))

    def start(self, threads: int) -> Child:
        """Returns the started process."""
        return start_logged([*EDP, *self.args()], self.log_path, threads)


def trainings(runs: Path, tasks: tuple[str, ...], seed: int) -> list[list[Training]]:
    """Returns what is trained, in waves: no run of a wave needs another of the same wave."""
    chains = [
        [Training(runs, name, words, seed) for name, words in TEACHERS[task]] for task in tasks
    ]
    depth = max(map(len, chains))
    waves = [
        list(dict.fromkeys(chain[i] for chain in chains if len(chain) > i)) for i in range(depth)
    ]
    students = [
        Training(runs, f"{task}/{name}", f"distill --from {chain[-1].folder} {words}", seed)
        for task, chain in zip(tasks, chains, strict=True)
        for name, words in STUDENTS.items()
    ]
    return [*waves, students]


@dataclass(frozen=True)
class Policy:
    """A policy that is measured: its family (teacher, or a student's name), network calls, module."""

    family: str
    n_calls: int
    module: nn.Module

    @property
    def name(self) -> str:
        """Family and calls, as `paired-2`."""
        return f"{self.family}-{self.n_calls}"


def policies(runs: Path, task: str) -> tuple[list[Policy], DiffusionPolicy, Any]:
    """Returns (the policies of a task, the reference teacher of 64 denoising steps, the source) from complete runs."""
    folder = Training(runs, f"{task}/teacher", "", 0).folder
    source = load_source(folder)
    found = [Policy("teacher", n, load_source(folder, n).teacher) for n in TEACHER_STEPS]
    for name in STUDENTS:
        student, _ = load_student(Training(runs, f"{task}/{name}", "", 0).folder)
        for n in STUDENT_STEPS[:1] if name == SMALL else STUDENT_STEPS:
            found.append(Policy(name, n, student.with_steps(n)))
    return found, load_source(folder, REFERENCE_STEPS).teacher, source


class Uniform(nn.Module):
    """Uniform actions, made of normal noise: what a retained return is counted from."""

    def __init__(self, act_dim: int) -> None:
        super().__init__()
        self.latent_dim = act_dim

    def forward(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns actions (batch, act_dim), uniform in [-1, 1] for standard normal noise (batch, act_dim)."""
        return torch.erf(noise / 2**0.5)
