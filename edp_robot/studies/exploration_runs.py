"""One run of the study of exploration: where it lies, how it is made, what came out of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.studies.processes import read_result
from edp_robot.training.runs import read_config, read_metrics
from policy_server.contract.files import write_atomic

ARM = "arm"
MAZE_PREFIX = "maze-square-"
METHODS = {
    "edp": "EDP",
    "rnd": "RND",
    "particle": "particle",
    "random": "random actions",
}  # name: label
PAPER = {  # coverage of EDP in the paper: mean, std of 10 seeds (arXiv 2502.07279, Table 1)
    "a": (0.99, 0.02),
    "b": (0.99, 0.01),
    "c": (0.98, 0.02),
    "d": (0.78, 0.01),
    "tree": (0.91, 0.01),
    "bottleneck": (0.75, 0.15),
    "large": (0.71, 0.07),
}


@dataclass(frozen=True)
class Job:
    """One `edp pretrain` of n_seeds learners; files RUNS/<task>/<name>*, the name being the method's or the variant's.

    `settings` are those of `edp pretrain --set`.
    """

    runs: Path
    task: str
    method: str
    env_steps: int
    n_seeds: int
    seed: int
    variant: str = ""
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What tells it from others of its task."""
        return self.variant or self.method

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / self.task / self.name

    @property
    def result_path(self) -> Path:
        """The result, there once the run is complete."""
        return self.folder.with_suffix(".json")

    @property
    def log_path(self) -> Path:
        """What the process said."""
        return self.folder.with_suffix(".log")

    @property
    def made_path(self) -> Path:
        """How the run was made: options, command, machine."""
        return self.folder.with_suffix(".made.json")

    def options(self) -> dict[str, Any]:
        """Returns what must not change between an interrupted run and its going on."""
        sizes = {"env_steps": self.env_steps, "n_seeds": self.n_seeds, "seed": self.seed}
        return {**sizes, **({"set": " ".join(self.settings)} if self.settings else {})}

    def args(self) -> list[str]:
        """Returns the arguments of `edp`."""
        sizes = [f"--{k.replace('_', '-')}={v}" for k, v in self.options().items() if k != "set"]
        sizes += ["--set", *self.settings] if self.settings else []
        files = ["--out", str(self.folder), "--json", str(self.result_path)]
        return [
            "pretrain",
            "--task",
            self.task,
            "--method",
            self.method,
            *sizes,
            *files,
            "--resume",
        ]

    def finished(self) -> bool:
        """Returns whether the result is there, and whole."""
        return bool(read_result(self.result_path))

    def note(self, machine: str) -> None:
        """Writes down how the run is made, before it is."""
        made = {**self.options(), "command": f"edp {' '.join(self.args())}", "machine": machine}
        self.made_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.made_path, (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())

    def check(self) -> None:
        """Raises ValueError where a run lies here that was made with other options."""
        made, wanted = read_result(self.made_path), self.options()
        exists = self.folder.exists() or self.result_path.exists()
        if exists and (other := {k: made[k] for k, v in wanted.items() if made.get(k, v) != v}):
            asked = {k: wanted[k] for k in other}
            raise ValueError(
                f"{self.folder} was made with {_said(other)}, and {_said(asked)} is asked now; "
                "choose another --runs, or the options that it was made with"
            )


@dataclass(frozen=True)
class Result:
    """What a complete run gave; one entry a seed in `coverage` and `presses` (n_seeds,)."""

    job: Job
    coverage: np.ndarray
    presses: np.ndarray | None  # episodes in which the button was pressed; the arm only
    env_step: np.ndarray  # (n_rows,)
    curves: np.ndarray  # (n_seeds, n_rows) coverage
    env_steps: int
    grad_steps: int
    wall_s: float  # of all seeds together
    commit: str
    machine: str
    command: str


def collect(job: Job) -> Result:
    """Returns what the complete run gave.

    Raises:
        ValueError, OSError: the run folder lacks what the result promises.
    """
    said, made = read_result(job.result_path), read_result(job.made_path)
    if job.method == "random":  # learns nothing
        said.setdefault("grad_steps", 0)
    missing = [k for k in ("env_steps", "grad_steps", "wall_s", "n_seeds") if k not in said]
    if missing:
        raise ValueError(
            f"{job.result_path} lacks {', '.join(missing)}; delete it, and the run goes on"
        )
    seeds = range(int(said["n_seeds"]))
    env_step, curves = _curves(job.folder, "coverage", seeds)
    return Result(
        job,
        curves[:, -1],
        _curves(job.folder, "n_success_episodes", seeds)[1][:, -1] if job.task == ARM else None,
        env_step,
        curves,
        int(said["env_steps"]),
        int(said["grad_steps"]),
        float(said["wall_s"]),
        read_config(job.folder).get("commit", "unknown"),
        made.get("machine", "unknown"),
        made.get("command", "unknown"),
    )


def _curves(folder: Path, name: str, seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env_steps (n_rows,), values (n_seeds, n_rows)) of a metric that is logged for every seed."""
    rows = [read_metrics(folder, f"{name}/{k}") for k in seeds]
    lengths = {len(values) for _, values in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{folder / 'metrics.csv'} has no rows of {name}/k for each of {len(seeds)} seeds"
        )
    env_step = rows[0][0]
    last = np.append(np.diff(env_step) > 0, True)  # the end of a run may be logged twice
    return env_step[last], np.array([values for _, values in rows])[:, last]


def _said(options: dict[str, Any]) -> str:
    return ", ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items())
