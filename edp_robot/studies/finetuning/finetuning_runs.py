"""One run of the study of fine-tuning: where it lies, how it is made, what came out of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.studies.exploration_runs import Pretraining
from edp_robot.studies.finetuning import scores
from edp_robot.studies.finetuning.study_rows import STARTS, Row
from edp_robot.studies.jobs import NotedJob, read_result
from edp_robot.training.runs import read_config, read_metrics


def slug(name: str) -> str:
    """Returns a name for files."""
    return re.sub("[^A-Za-z0-9.]+", "-", name).strip("-")


@dataclass(frozen=True)
class Protocol:
    """What all runs of a study share.

    Attributes:
        runs: Folder of all runs.
        preset: Sizes and rates, of pre-training and fine-tuning.
        env_steps: Control steps of fine-tuning.
        eval_every: env_steps between evaluations.
        n_episodes: Episodes of each evaluation.
    """

    runs: Path
    preset: str
    env_steps: int
    eval_every: int
    n_episodes: int


@dataclass(frozen=True)
class Tuning(NotedJob):
    """One `edp finetune`, in the folder RUNS/<task>/<method>-<start>-<seed>.

    Attributes:
        protocol: What all runs share.
        task: Name of the task with a reward.
        row: The row of the tables: the fine-tuner, and what the run starts from.
        seed: Seeds all random generators.
        explored: The pre-training. None: it starts from scratch.
    """

    protocol: Protocol
    task: str
    row: Row
    seed: int
    explored: Pretraining | None

    @property
    def title(self) -> str:
        """What the run is called in messages."""
        return f"{self.task}, {self.row}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        name = f"{slug(self.row.method)}-{self.row.start}-{self.seed}"
        return self.protocol.runs / slug(self.task) / name

    def options(self) -> dict[str, Any]:
        """Returns the options that a continued run must share with the interrupted one."""
        p = self.protocol
        explored = self.explored.options() if self.explored else {}
        return {
            "env_steps": p.env_steps,
            "eval_every": p.eval_every,
            "eval_episodes": p.n_episodes,
            "preset": p.preset,
            "pretrain_env_steps": explored.get("env_steps", 0),
            "explore": self.explored.method if self.explored else "",
        }

    def words(self) -> list[str]:
        """Returns the command and its options, without files."""
        p = self.protocol
        name, *settings = self.row.method.split()
        words = ["finetune", "--task", self.task, "--method", name, "--seed", str(self.seed)]
        words += ["--preset", p.preset, "--env-steps", str(p.env_steps)]
        words += ["--eval-every", str(p.eval_every), "--eval-episodes", str(p.n_episodes)]
        settings.append(f"n_eval_episodes={p.n_episodes}")
        if self.explored:
            words += ["--from", str(self.explored.folder)]
            takes = STARTS[self.row.start]
            words += ["--reuse-replay", str(takes.replay)]
            settings.append(f"reuse_policy={str(takes.policy).lower()}")
        return [*words, "--set", *settings]

    def finished(self) -> bool:
        """Returns whether the result is there, of as many env_steps as are asked."""
        return read_result(self.result_path).get("env_steps", 0) >= self.protocol.env_steps


@dataclass(frozen=True)
class Outcome:
    """What a complete run gave.

    Attributes:
        job: The run.
        env_step: When it was evaluated (n,): 0, and each multiple of `eval_every`.
        mean_return: Mean return then (n,).
        success: Share of successful episodes then (n,). None: the task reports none.
        final_return: Mean return at the end, of other episodes than those on the way.
        final_success: Share of successful ones among these, or None.
        costs: grad_steps, offline_grad_steps, learn_cpu_s, cpu_s and wall_s.
        made: Options, command, machine, commit.
    """

    job: Tuning
    env_step: np.ndarray
    mean_return: np.ndarray
    success: np.ndarray | None
    final_return: float
    final_success: float | None
    costs: dict[str, float]
    made: dict[str, Any]

    @property
    def score(self) -> float:
        """The score at the end."""
        return scores.score(self.job.task, self.final_return, self.final_success)

    @property
    def curve(self) -> np.ndarray:
        """The score at each evaluation (n,)."""
        successes = [None] * len(self.env_step) if self.success is None else self.success
        pairs = zip(self.mean_return, successes, strict=True)
        return np.array([scores.score(self.job.task, ret, share) for ret, share in pairs])

    def at(self, env_step: int) -> float:
        """Returns the score when `env_step` was passed."""
        return float(self.curve[np.searchsorted(self.env_step, env_step)])


def collect(job: Tuning) -> Outcome:
    """Returns what a complete run gave.

    Raises:
        ValueError, OSError: The run folder lacks what its result promises.
    """
    said = read_result(job.result_path)
    p = job.protocol
    at = np.arange(0, p.env_steps + 1, p.eval_every)
    mean_return = _curve(job.folder, "mean_return", at)
    success = _curve(job.folder, "success", at) if said.get("success") is not None else None
    made = read_result(job.made_path)
    return Outcome(
        job=job,
        env_step=at,
        mean_return=mean_return,
        success=success,
        final_return=float(said["mean_return"]),
        final_success=said.get("success"),
        costs=_costs(job.folder),
        made={**made, "commit": read_config(job.folder).get("commit", "unknown")},
    )


def _curve(folder: Path, name: str, at: np.ndarray) -> np.ndarray:
    """Returns a metric's first value at or after each of `at` (n,).

    A decision takes several env_steps at once, so that evaluations come a little later.
    """
    steps, values = read_metrics(folder, name)
    places = np.searchsorted(steps, at)
    if len(steps) == 0 or places[-1] == len(steps) or steps[0]:
        raise ValueError(f"{folder / 'metrics.csv'} has no {name} at 0 to {at[-1]} env_steps")
    return values[places]


def _costs(folder: Path) -> dict[str, float]:
    """Returns what a run took: its last counts, and the grad_steps before the first env_step."""
    found = {}
    for name in ("grad_steps", "learn_cpu_s", "cpu_s", "wall_s"):
        steps, values = read_metrics(folder, name)
        if len(values) == 0:
            raise ValueError(f"{folder / 'metrics.csv'} has no {name}")
        found[name] = float(values[-1])
        if name == "grad_steps":
            found["offline_grad_steps"] = float(values[0]) if steps[0] == 0 else 0.0
    return found
