"""From a teacher's 15 denoising steps to a student's 1, 2 or 4 network calls: the run (method section 7)."""

from __future__ import annotations

from pathlib import Path

import torch

from edp_robot.config.schema import DistillConfig
from edp_robot.deploy.students import Student
from edp_robot.training.chunks import train_in_chunks
from edp_robot.training.distillers import DISTILLERS, make_student
from edp_robot.training.runs import Run, from_dict, load_tree, read_config
from edp_robot.training.source import Source, load_source, visited_states


def distill(config: DistillConfig, out: str, resume: bool = False) -> Student:
    """Distils the diffusion policy of run `config.start` into a student of `config.steps` network calls.

    Raises:
        FileExistsError: `out` holds a run and resume is False. FileNotFoundError, ValueError: no diffusion policy
        in `config.start`. KeyboardInterrupt: saved; `resume` goes on.
    """
    torch.manual_seed(config.seed)
    source = load_source(config.start, config.teacher_denoise_steps)
    run = Run(out, config, resume)
    student = make_student(source, config)
    states = visited_states(source, 64, config.rollout_episodes, config.seed + 1)
    trainer = DISTILLERS[config.method](source, student, states, config)
    train_in_chunks(run, trainer, config.n_chunks, f"distill {config.method}", resume)
    return student.eval()


def load_student(run: str | Path) -> tuple[Student, Source]:
    """Returns the student of a distillation run, and the source it came from (read from the same place).

    Raises:
        FileNotFoundError, ValueError: not a distillation run.
    """
    held = read_config(run)
    if held["kind"] != "DistillConfig":
        raise ValueError(
            f"{run} is a {held['kind']}, not a distillation; give a run of `edp distill`"
        )
    config = from_dict(DistillConfig, held["config"])
    source = load_source(config.start, config.teacher_denoise_steps)
    student = make_student(source, config)
    student.net.load_state_dict(load_tree(Path(run) / "checkpoint.safetensors")["net"])
    return student.requires_grad_(False).eval(), source
