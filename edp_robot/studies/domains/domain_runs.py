"""The runs of the study of bodies: exploring for some processor time, then fine-tuning."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.config import presets
from edp_robot.config.settings import changed
from edp_robot.studies.domains.recipes import RECIPES, SCRATCH
from edp_robot.studies.exploration_runs import Pretraining
from edp_robot.studies.jobs import Job, read_result
from edp_robot.training.runs import read_metrics
from policy_server.contract.disk.files import write_json
from sim.core.registry import task_spec

MOST_ENV_STEPS = 10_000_000  # never reached: the processor time ends a run
# The replay's newest transitions are what the tasks learn from; the logs are the curves.
SHARED = ("loop.replay_capacity=300000", "loop.n_logs=200", "loop.final_updates=0")
# grad_steps of the fine-tuner after a control step of its 20 copies: one for 4 env_steps.
AFTER = 5
OFFLINE_ROUNDS = 6  # of as many grad_steps, before the first env_step
ACTOR = ("width", "n_layers", "layer_norm", "n_features", "feature_scale")


def slug(name: str) -> str:
    """Returns a recipe's name for files."""
    return re.sub("[^a-z0-9]+", "-", name)


def exploring(runs: Path, domain: str, recipe: str, seed: int, cpu_s: float) -> Pretraining:
    """Returns the run of a recipe that explores for `cpu_s` [s] of one processor.

    Args:
        runs: Folder of all runs.
        domain: Name of the task without reward.
        recipe: One of RECIPES.
        seed: Seeds all random generators.
        cpu_s: Its processor time [s].
    """
    made = RECIPES[recipe]
    fields = list(task_spec(domain).novelty_fields)
    named = (f"reward.fields={json.dumps(fields)}",) if made.on_named else ()
    return Pretraining(
        runs,
        domain,
        made.method,
        MOST_ENV_STEPS,
        1,
        seed,
        variant=f"{slug(recipe)}-{seed}",
        settings=(*SHARED, f"loop.max_cpu_s={cpu_s:g}", *made.settings, *named),
        preset=made.preset,
    )


@dataclass(frozen=True)
class Downstream(Job):
    """One `edp finetune --method ddpg` from a run, or from scratch.

    The fine-tuner is the same for all recipes, but for the size of the actor that it goes on with.

    Attributes:
        runs: Folder of all runs.
        domain: Name of the task that was explored.
        recipe: One of RECIPES, or SCRATCH.
        task: Name of the task with a reward.
        seed: Seeds all random generators.
        cpu_s: Processor time of exploring [s].
        at: env_steps at which the return is measured, ascending.
        n_episodes: Episodes of each measurement, always the same ones.
    """

    runs: Path
    domain: str
    recipe: str
    task: str
    seed: int
    cpu_s: float
    at: tuple[int, ...]
    n_episodes: int

    @property
    def explored(self) -> Pretraining | None:
        """The run that it starts from; None from scratch."""
        if self.recipe == SCRATCH:
            return None
        return exploring(self.runs, self.domain, self.recipe, self.seed, self.cpu_s)

    @property
    def name(self) -> str:
        """The run's name among those of its domain."""
        return f"{slug(self.recipe)}-{self.seed}-{self.task}"

    @property
    def title(self) -> str:
        """The task that is explored and the run's name."""
        return f"{self.domain}, {self.name}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / self.domain / self.name

    def words(self) -> list[str]:
        """Returns the command and its options, without files."""
        words = ["finetune", "--task", self.task, "--method", "ddpg", "--seed", str(self.seed)]
        words += ["--env-steps", str(self.at[-1]), "--eval-every", str(math.gcd(*self.at))]
        words += ["--eval-episodes", str(self.n_episodes)]
        n_updates = AFTER * task_spec(self.task).hold
        settings = [f"loop.updates_per_round={n_updates}", f"n_eval_episodes={self.n_episodes}"]
        settings.append(f"offline_rounds={OFFLINE_ROUNDS}")
        if start := self.explored:
            words += ["--from", str(start.folder)]
            settings += self._fitting(start)
        return [*words, "--set", *settings]

    def _fitting(self, start: Pretraining) -> list[str]:
        """Returns the settings that the run's actor needs; random actions have none."""
        if start.method == "random":
            return ["reuse_policy=false"]
        config = presets.pretrain(start.preset or "demo", start.task, method=start.method)
        ddpg = changed(config, start.settings).ddpg
        usual = presets.finetune("demo", self.task, method="ddpg").tuner
        differing = [name for name in ACTOR if vars(ddpg)[name] != vars(usual)[name]]
        return [f"tuner.{name}={str(vars(ddpg)[name]).lower()}" for name in differing]

    def finished(self) -> bool:
        """Returns whether the result is there, and a return at each of `at`."""
        try:
            return super().finished() and len(self.returns()) == len(self.at)
        except (OSError, ValueError):
            return False

    def note(self) -> None:
        """Writes down how many episodes a return is the mean of, before the run is made."""
        write_json(self.beside(".made.json"), {"n_episodes": self.n_episodes})

    def check(self) -> None:
        """Raises ValueError where the folder holds a run that was measured otherwise."""
        held = read_result(self.beside(".made.json")).get("n_episodes", self.n_episodes)
        if held != self.n_episodes:
            raise ValueError(
                f"{self.folder} was made with --downstream-episodes {held}, and {self.n_episodes} "
                "is asked now; choose another --runs, or the number that it was made with"
            )

    def returns(self) -> list[float]:
        """Returns the mean return when each of `at` was passed.

        Raises:
            ValueError: The run folder lacks one of them.
        """
        steps, values = read_metrics(self.folder, "mean_return")
        places = np.searchsorted(steps, self.at)
        if len(steps) == 0 or places[-1] == len(steps):
            raise ValueError(f"{self.folder} has no mean_return at {self.at[-1]} env_steps")
        return [float(values[place]) for place in places]


@dataclass(frozen=True)
class Curves:
    """What a run of exploring gave.

    Attributes:
        env_step: When metrics were logged (n_rows,).
        cpu_s: Processor time then [s] (n_rows,).
        measures: Each measure of exploration by its name (n_rows,).
        made: The run's result and how it was made.
    """

    env_step: np.ndarray
    cpu_s: np.ndarray
    measures: dict[str, np.ndarray]
    made: dict[str, Any]

    def at_time(self, measure: str, cpu_s: float) -> float:
        """Returns a measure when the run had used `cpu_s` [s], between rows in a straight line.

        NaN beyond the last row.
        """
        return float(np.interp(cpu_s, self.cpu_s, self.measures[measure], right=math.nan))

    def at_step(self, measure: str, env_step: int) -> float:
        """Returns a measure at `env_step`, between rows in a straight line; NaN beyond the last."""
        return float(np.interp(env_step, self.env_step, self.measures[measure], right=math.nan))


def read_curves(job: Pretraining, seed_index: int = 0) -> Curves:
    """Returns what a complete run of exploring gave.

    Args:
        job: The run.
        seed_index: Which of its learners.

    Raises:
        ValueError, OSError: The run folder lacks what its result promises.
    """
    env_step, cpu_s = read_metrics(job.folder, "cpu_s")
    found = {}
    for name in measure_names(job.folder, seed_index):
        steps, values = read_metrics(job.folder, f"{name}/{seed_index}")
        if steps.tolist() != env_step.tolist():
            raise ValueError(f"{job.folder / 'metrics.csv'} has other rows of {name} than of cpu_s")
        found[name] = values
    if not found:
        raise ValueError(f"{job.folder / 'metrics.csv'} has no coverage; the task measures none")
    return Curves(env_step, cpu_s, found, read_result(job.made_path))


def measure_names(folder: Path, seed_index: int = 0) -> list[str]:
    """Returns the names of a run's measures of exploration, as far as they are logged.

    A task's several coverages leave out `coverage`, which is the first of them.

    Args:
        folder: The run folder.
        seed_index: Which of its learners.
    """
    lines = (folder / "metrics.csv").read_text().splitlines()
    suffix = f"/{seed_index}"
    logged = dict.fromkeys(line.split(",")[1] for line in lines[1:] if line.count(",") == 2)
    names = [name.removesuffix(suffix) for name in logged if name.endswith(suffix)]
    known = [name for name in names if name.startswith(("coverage", "n_contacts"))]
    several = [name for name in known if name != "coverage"]
    return several or known
