"""Distils a teacher of 15 denoising steps into a student of 1, 2 or 4 network calls.

Source: method section 7.
"""

from __future__ import annotations

from pathlib import Path

from edp_robot.deploy.students import Student
from edp_robot.training.chunks import train_in_chunks
from edp_robot.training.devices import seed_all
from edp_robot.training.distillers import DISTILLERS, DistillConfig, make_student
from edp_robot.training.runs import Run, RunRecord
from edp_robot.training.source import Source, load_source, visited_states


def distill(config: DistillConfig, out: str, resume: bool = False) -> Student:
    """Distils the diffusion policy of run `config.start`; returns the student.

    Args:
        config: Teacher, method and sizes.
        out: Run folder.
        resume: Whether to go on from the folder's checkpoint.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        FileNotFoundError: `config.start` is no run folder.
        ValueError: It holds no diffusion policy.
        KeyboardInterrupt: SIGINT came. The last checkpoint stays.
    """
    seed_all(config.seed)
    source = load_source(config.start, config.teacher_denoise_steps)
    with Run(out, config, resume) as run:
        student = make_student(source, config)
        states = visited_states(
            source, n_envs=64, n_episodes=config.rollout_episodes, seed=config.seed + 1
        )
        trainer = DISTILLERS[config.method](source, student, states, config)
        title = f"distill {config.method}"
        train_in_chunks(run, trainer, config.n_chunks, title=title, resume=resume)
    return student.eval()


def load_student(run: str | Path) -> tuple[Student, Source]:
    """Returns the student of a distillation run, and the run with its teacher.

    Raises:
        FileNotFoundError: `run` is no run folder, or the teacher's is gone.
        ValueError: `run` is no distillation.
    """
    record = RunRecord.load(run, DistillConfig)
    source = load_source(record.config.start, record.config.teacher_denoise_steps)
    student = make_student(source, record.config)
    student.net.load_state_dict(record.checkpoint()["net"])
    return student.requires_grad_(False).eval(), source
