"""One run of the study of exploration: where it lies, how it is made, what came out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edp_robot.studies.jobs import NotedJob, read_result
from edp_robot.training.runs import read_config, read_metrics

ARM = "arm"

# The state model as a network, sharp enough to hold a maze (docs/exploration.md).
NETWORK = (
    "state_model.n_blocks=1",
    "state_model.n_features=128",
    "state_model.learning_rate=0.003",
)
PAPER = {  # coverage of EDP in the paper: mean, std of 10 seeds (arXiv 2502.07279, Table 1)
    "a": (0.99, 0.02),
    "b": (0.99, 0.01),
    "c": (0.98, 0.02),
    "d": (0.78, 0.01),
    "tree": (0.91, 0.01),
    "bottleneck": (0.75, 0.15),
    "large": (0.71, 0.07),
}


class Method(NamedTuple):
    """A row of the tables.

    Attributes:
        title: Its name there.
        method: Name of the intrinsic reward.
        settings: NAME=VALUE for `edp pretrain --set`, on top of the preset.
    """

    title: str
    method: str
    settings: tuple[str, ...] = ()


METHODS = {
    "edp": Method("EDP", "edp"),
    "edp-network": Method("EDP, network", "edp", ("score_reward.estimator=antithetic", *NETWORK)),
    "rnd": Method("RND", "rnd"),
    "particle": Method("particle", "particle"),
    "random": Method("random actions", "random"),
}


@dataclass(frozen=True)
class Pretraining(NotedJob):
    """One `edp pretrain` of several seeds, in the folder RUNS/<task>/<name>.

    Attributes:
        runs: Folder of all runs.
        task: Name of the task.
        method: Name of the method.
        env_steps: Control steps of each seed.
        n_seeds: Learners trained at once.
        seed: Seeds all random generators.
        variant: Name of what was changed. Empty: nothing, and the method names the run.
        settings: NAME=VALUE for `edp pretrain --set`.
        preset: Sizes and rates. Empty: the default's.
    """

    runs: Path
    task: str
    method: str
    env_steps: int
    n_seeds: int
    seed: int
    variant: str = ""
    settings: tuple[str, ...] = ()
    preset: str = ""

    @property
    def name(self) -> str:
        """The run's name among those of its task."""
        return self.variant or self.method

    @property
    def title(self) -> str:
        """The task that is explored and the run's name."""
        return f"{self.task}, {self.name}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / self.task / self.name

    def options(self) -> dict[str, Any]:
        """Returns the options that a continued run must share with the interrupted one."""
        sizes = {"env_steps": self.env_steps, "n_seeds": self.n_seeds, "seed": self.seed}
        preset = {"preset": self.preset} if self.preset else {}
        return {**sizes, **preset, **({"set": " ".join(self.settings)} if self.settings else {})}

    def words(self) -> list[str]:
        """Returns the command and its options, without files."""
        sizes = [f"--{k.replace('_', '-')}={v}" for k, v in self.options().items() if k != "set"]
        changes = ["--set", *self.settings] if self.settings else []
        return ["pretrain", "--task", self.task, "--method", self.method, *sizes, *changes]


@dataclass(frozen=True)
class Result:
    """What a complete run gave.

    Attributes:
        job: The run.
        coverage: Coverage at the end (n_seeds,).
        presses: Episodes in which the button was pressed (n_seeds,); the arm only.
        env_step: When coverage was logged (n_rows,).
        curves: Coverage (n_seeds, n_rows).
        env_steps: Control steps of each seed.
        grad_steps: Updates of each seed.
        wall_s: Time of all seeds together [s].
        commit: Commit of the code that made the run.
        machine: The machine in words.
        command: The command that made the run.
    """

    job: Pretraining
    coverage: np.ndarray
    presses: np.ndarray | None
    env_step: np.ndarray
    curves: np.ndarray
    env_steps: int
    grad_steps: int
    wall_s: float
    commit: str
    machine: str
    command: str


def collect(job: Pretraining) -> Result:
    """Returns what a complete run gave.

    Raises:
        ValueError, OSError: The run folder lacks what its result promises.
    """
    said = read_result(job.result_path)
    made = read_result(job.made_path)
    if job.method == "random":  # learns nothing
        said.setdefault("grad_steps", 0)
    missing = [k for k in ("env_steps", "grad_steps", "wall_s", "n_seeds") if k not in said]
    if missing:
        raise ValueError(
            f"{job.result_path} lacks {', '.join(missing)}; delete it, and the run goes on"
        )
    n_seeds = int(said["n_seeds"])
    env_step, curves = _curves(job.folder, "coverage", n_seeds)
    presses = None
    if job.task == ARM:
        presses = _curves(job.folder, "n_success_episodes", n_seeds)[1][:, -1]
    return Result(
        job=job,
        coverage=curves[:, -1],
        presses=presses,
        env_step=env_step,
        curves=curves,
        env_steps=int(said["env_steps"]),
        grad_steps=int(said["grad_steps"]),
        wall_s=float(said["wall_s"]),
        commit=read_config(job.folder).get("commit", "unknown"),
        machine=made.get("machine", "unknown"),
        command=made.get("command", "unknown"),
    )


def _curves(folder: Path, name: str, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env_steps (n_rows,), values (n_seeds, n_rows)) of a metric of every seed."""
    rows = [read_metrics(folder, f"{name}/{k}") for k in range(n_seeds)]
    lengths = {len(values) for _, values in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{folder / 'metrics.csv'} has no rows of {name}/k for each of {n_seeds} seeds"
        )
    env_step = rows[0][0]
    last = np.append(np.diff(env_step) > 0, True)  # the end of a run may be logged twice
    return env_step[last], np.array([values for _, values in rows])[:, last]
