"""The tables of the study of bodies: means over seeds, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edp_robot.studies.domains.domain_runs import Curves, Downstream, slug
from edp_robot.studies.domains.recipes import RECIPES, SCRATCH
from edp_robot.studies.exploration_runs import Pretraining
from edp_robot.studies.tables import bold, interval, markdown

N_POINTS = 30


@dataclass
class Found:
    """What the complete runs gave: of exploring, and the returns after it."""

    explored: dict[Pretraining, Curves] = field(default_factory=dict)
    returns: dict[Downstream, list[float]] = field(default_factory=dict)
    entropy: dict[Pretraining, float] = field(default_factory=dict)

    def curves(self, domain: str, recipe: str) -> list[Curves]:
        """Returns those of a recipe's seeds in a domain."""
        return [
            curves
            for job, curves in self.explored.items()
            if job.task == domain and job.name == f"{slug(recipe)}-{job.seed}"
        ]

    def entropies(self, domain: str, recipe: str) -> list[float]:
        """Returns the entropy [nats] of the states of a recipe's seeds in a domain."""
        return [
            nats
            for job, nats in self.entropy.items()
            if job.task == domain and job.name == f"{slug(recipe)}-{job.seed}"
        ]

    def measures(self, domain: str) -> list[str]:
        """Returns the names of a domain's measures."""
        named = (c.measures for job, c in self.explored.items() if job.task == domain)
        return list(dict.fromkeys(name for measures in named for name in measures))

    def tasks(self, domain: str) -> list[str]:
        """Returns the names of the tasks that were learned after exploring a domain."""
        return list(dict.fromkeys(job.task for job in self.returns if job.domain == domain))

    def downstream(self, domain: str, recipe: str, task: str) -> list[list[float]]:
        """Returns a task's returns at each number of env_steps, a list for each seed.

        Args:
            domain: Name of the task that was explored.
            recipe: Name of the recipe, or SCRATCH.
            task: Name of the task with a reward.
        """
        wanted = (domain, recipe, task)
        there = self.returns.items()
        return [values for job, values in there if (job.domain, job.recipe, job.task) == wanted]


def cell(values: Sequence[float]) -> str:
    """Returns `mean [low, high] (n)`: Student's t interval; without one for a single value."""
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) == 0:
        return "-"
    digits = 3 if abs(known).max() < 10 else 1
    if len(known) == 1:
        return f"{known[0]:.{digits}f} (1)"
    mean, half = interval(known)
    return f"{mean:.{digits}f} [{mean - half:.{digits}f}, {mean + half:.{digits}f}] ({len(known)})"


def table(
    columns: dict[str, dict[str, list[float]]],
    rows: Iterable[str],
    cell: Callable[[Sequence[float]], str] = cell,
    head: str = "recipe",
) -> str:
    """Returns a Markdown table; a column's best mean is bold, and so are ties at the digits shown.

    Args:
        columns: By title, the values of each row's seeds.
        rows: Names of the rows, of which those without any value are left out.
        cell: Returns the text of some values, which begins with their mean.
        head: What the rows are.
    """
    shown = [row for row in rows if any(column.get(row) for column in columns.values())]
    best = {title: _best(column, cell) for title, column in columns.items()}
    body = [
        [row, *(bold(cell(c.get(row, [])), row in best[title]) for title, c in columns.items())]
        for row in shown
    ]
    return markdown([head, *columns], body)


def _best(column: dict[str, list[float]], cell: Callable[[Sequence[float]], str]) -> set[str]:
    """Returns the rows with the highest mean, as far as digits are shown."""
    means = {
        row: float(cell(values).split()[0])
        for row, values in column.items()
        if values and not np.isnan(values).all()
    }
    return {row for row, mean in means.items() if mean == max(means.values())}


def exploring_table(
    found: Found, domain: str, value: Callable[[Curves, str], float], cost: str
) -> str:
    """Returns the table of a domain's measures at one point of each run.

    Args:
        found: What the runs gave.
        domain: Name of the task.
        value: Returns a measure of a run at that point, NaN where the run did not get there.
        cost: `env_step` or `cpu_s`, the mean of which at the end of the runs is shown. At equal
            time (`env_step`) the entropy of the replay at the end is shown too.
    """
    by_recipe = {recipe: found.curves(domain, recipe) for recipe in RECIPES}
    columns = {
        name: {recipe: [value(c, name) for c in runs] for recipe, runs in by_recipe.items() if runs}
        for name in found.measures(domain)
    }
    if cost == "env_step":
        columns["entropy [nats]"] = {
            recipe: nats for recipe in RECIPES if (nats := found.entropies(domain, recipe))
        }
    text = table(columns, RECIPES)
    ends = {
        recipe: np.mean([float(vars(c)[cost][-1]) for c in runs])
        for recipe, runs in by_recipe.items()
        if runs
    }
    said = ", ".join(f"{recipe} {end:,.0f}" for recipe, end in ends.items())
    return f"{text}\n\n{cost} at the end: {said}."


def downstream_table(found: Found, domain: str, tasks: Sequence[str], at: Sequence[int]) -> str:
    """Returns the table of returns after fine-tuning.

    Args:
        found: What the runs gave.
        domain: Name of the task that was explored.
        tasks: Names of the tasks with a reward.
        at: env_steps of fine-tuning.
    """
    rows = [*RECIPES, SCRATCH]
    columns = {
        f"{task}, {steps:,}": {
            row: [values[i] for values in seeds]
            for row in rows
            if (seeds := found.downstream(domain, row, task))
        }
        for task in tasks
        for i, steps in enumerate(at)
    }
    return table(columns, rows)


def long_rows(found: Found) -> list[dict[str, Any]]:
    """Returns a row for each return, and `N_POINTS` rows at most for each curve of each run."""
    rows = []
    for job, curves in found.explored.items():
        named = {"domain": job.task, "run": job.name, "seed": job.seed, "task": ""}
        for name, values in curves.measures.items():
            chosen = np.unique(np.linspace(0, len(values) - 1, N_POINTS).round().astype(int))
            rows += [
                {
                    **named,
                    "measure": name,
                    "env_step": curves.env_step[i],
                    "cpu_s": round(float(curves.cpu_s[i]), 2),
                    "value": round(float(values[i]), 5),
                }
                for i in chosen
            ]
    for job, nats in found.entropy.items():
        named = {"domain": job.task, "run": job.name, "seed": job.seed, "task": ""}
        end = found.explored[job]
        last = {"env_step": end.env_step[-1], "cpu_s": round(end.cpu_s[-1], 2), "value": nats}
        rows.append({**named, "measure": "entropy", **last})
    for job, values in found.returns.items():
        named = {"domain": job.domain, "run": job.name, "seed": job.seed, "task": job.task}
        for step, value in zip(job.at, values, strict=True):
            shown = {"measure": "mean_return", "env_step": step, "cpu_s": "", "value": value}
            rows.append({**named, **shown})
    return rows
