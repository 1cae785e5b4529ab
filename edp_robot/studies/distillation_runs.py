"""The runs of the study of distillation: teachers, students, and the policies that they give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.studies.jobs import Job
from edp_robot.training.distill import load_student
from edp_robot.training.source import Source, load_source

TEACHER_STEPS = (1, 2, 4, 8, 15)
REFERENCE_STEPS = 64
STUDENT_STEPS = (1, 2, 4)
FETCH = "gym:FetchReach-v4"
TUNE = "finetune --task {} --from {{arm}} --eval-every 8000"
# How a task's teacher is made: (name of the run, arguments of `edp`). {arm} is the folder of "arm".
TEACHERS: dict[str, tuple[tuple[str, str], ...]] = {
    "modes": (("modes/teacher", "clone --task modes"),),
    "arm-press": (("arm", "pretrain --task arm"), ("arm-press/teacher", TUNE.format("arm-press"))),
    "arm-reach-left": (
        ("arm", "pretrain --task arm"),
        ("arm-reach-left/teacher", TUNE.format("arm-reach-left")),
    ),
    FETCH: ((f"{FETCH}/teacher", f"clone --task {FETCH}"),),
}
# How students are made. The network is trained once and used with 1, 2 and 4 calls.
STUDENTS = {
    "paired": "--method paired --set n_chunks=60",
    "consistency": "--method consistency --set n_chunks=60",
    "paired-small": "--method paired --width 64 --n-layers 2 --set n_chunks=60",
}
SMALL = "paired-small"  # measured with one call only


@dataclass(frozen=True)
class Training(Job):
    """One training: its folder is RUNS/<name>.

    Attributes:
        runs: Folder of all runs.
        name: Name of the run; a ":" becomes "-" in its folder.
        command: Words of the `edp` command. {arm} stands for the folder of the run "arm".
        seed: Seeds all random generators.
    """

    runs: Path
    name: str
    command: str
    seed: int

    @property
    def folder(self) -> Path:
        """The run folder."""
        return run_folder(self.runs, self.name)

    def words(self) -> list[str]:
        """Returns the command and its options, without files."""
        command = self.command.format(arm=run_folder(self.runs, "arm"))
        return [*command.split(), "--seed", str(self.seed)]


def run_folder(runs: Path, name: str) -> Path:
    """Returns the folder of the run `name`."""
    return runs / name.replace(":", "-")


def trainings(runs: Path, tasks: tuple[str, ...], seed: int) -> list[list[Training]]:
    """Returns the trainings in waves: no run needs another one of its wave.

    Args:
        runs: Folder of all runs.
        tasks: Names of the tasks.
        seed: Seeds all random generators.
    """
    chains = {
        task: [Training(runs, name, command, seed) for name, command in TEACHERS[task]]
        for task in tasks
    }
    depth = max(map(len, chains.values()))
    waves = [
        list(dict.fromkeys(chain[i] for chain in chains.values() if len(chain) > i))
        for i in range(depth)
    ]
    students = [
        Training(runs, f"{task}/{name}", f"distill --from {chain[-1].folder} {options}", seed)
        for task, chain in chains.items()
        for name, options in STUDENTS.items()
    ]
    return [*waves, students]


@dataclass(frozen=True)
class Policy:
    """A policy to measure: its family (teacher, or a student's name), network calls, module."""

    family: str
    n_calls: int
    module: nn.Module

    @property
    def name(self) -> str:
        """Family and calls, like `paired-2`."""
        return f"{self.family}-{self.n_calls}"


def policies(runs: Path, task: str) -> tuple[list[Policy], DiffusionPolicy, Source]:
    """Returns (policies, teacher of 64 denoising steps, source) of a task's complete runs."""
    folder = run_folder(runs, f"{task}/teacher")
    found = [Policy("teacher", n, load_source(folder, n).teacher) for n in TEACHER_STEPS]
    for name in STUDENTS:
        student, _ = load_student(run_folder(runs, f"{task}/{name}"))
        steps = STUDENT_STEPS[:1] if name == SMALL else STUDENT_STEPS
        found += [Policy(name, n, student.with_steps(n)) for n in steps]
    return found, load_source(folder, REFERENCE_STEPS).teacher, load_source(folder)


class Uniform(nn.Module):
    """Uniform actions, made of normal noise: a retained return is counted from their return."""

    def __init__(self, act_dim: int) -> None:
        super().__init__()
        self.latent_dim = act_dim

    def forward(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns actions (batch, act_dim), uniform in [-1, 1], for noise (batch, act_dim)."""
        return torch.erf(noise / 2**0.5)
