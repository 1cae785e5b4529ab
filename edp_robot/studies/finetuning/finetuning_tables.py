"""The tables of the study of fine-tuning: each task, all tasks, costs, and rows for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edp_robot.studies.domains.domain_tables import table
from edp_robot.studies.finetuning import scores
from edp_robot.studies.finetuning.bootstrap import Estimate, Scores, improvement, iqm, mean
from edp_robot.studies.finetuning.finetuning_runs import Outcome, Tuning
from edp_robot.studies.finetuning.study_rows import BOTH, SCRATCH, STARTS, Row
from edp_robot.studies.tables import markdown

COSTS = ("grad_steps", "offline_grad_steps", "learn_cpu_s", "cpu_s", "wall_s")


@dataclass(frozen=True)
class Plan:
    """What the tables compare.

    Attributes:
        tasks: Names of the tasks.
        rows: The rows of the tables.
        reference: The row that all others are compared with.
        starts: What each row starts from on each task. Rows that a task does not have are missing.
        left_out: A sentence for each row that a task does not have, or has as another one.
        at: env_steps of the columns.
        n_runs: Fine-tunings of the whole study.
        command: The command that repeats the study.
    """

    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    reference: Row
    starts: Mapping[tuple[str, Row], str]
    left_out: tuple[str, ...]
    at: tuple[int, ...]
    n_runs: int
    command: str

    def place(self, job: Tuning) -> tuple[int, int, int]:
        """Returns the place of a run among all: by task, row, seed."""
        methods = [row.method for row in self.rows]
        place = methods.index(job.row.method) + list(STARTS).index(job.row.start)
        return self.tasks.index(job.task), place, job.seed


@dataclass(frozen=True)
class Found:
    """What the complete runs gave.

    Attributes:
        plan: What is compared.
        outcomes: The complete fine-tunings.
    """

    plan: Plan
    outcomes: Sequence[Outcome]

    def of(self, task: str, row: Row) -> list[Outcome]:
        """Returns those of a row's seeds on a task."""
        wanted = (task, row._replace(start=self.plan.starts.get((task, row), "")))
        return [found for found in self.outcomes if (found.job.task, found.job.row) == wanted]

    @property
    def tasks(self) -> list[str]:
        """The tasks of which there is a run."""
        there = {found.job.task for found in self.outcomes}
        return [task for task in self.plan.tasks if task in there]

    def unit(self, task: str) -> str:
        """Returns what a task's score is."""
        has_success = any(o.final_success is not None for o in self.outcomes if o.job.task == task)
        return scores.unit(task, has_success)

    @property
    def pooled_tasks(self) -> list[str]:
        """The tasks whose scores can be pooled; a single one always can."""
        if len(self.tasks) == 1:
            return self.tasks
        return [task for task in self.tasks if self.unit(task) != scores.RETURN]

    def pooled(self, row: Row) -> Scores:
        """Returns a row's scores on each task that can be pooled and has some."""
        return [runs for task in self.pooled_tasks if len(runs := self.scores(task, row))]

    def scores(self, task: str, row: Row) -> np.ndarray:
        """Returns the scores of a row's seeds on a task (n,)."""
        return np.array([found.score for found in self.of(task, row)])

    def improvement(self, row: Row, other: Row) -> Estimate | None:
        """Returns the probability that a row's run scores higher than the other's.

        None where they are the same, or have no task in common. It needs no common unit, so all
        tasks count that have both.
        """
        pairs = [(self.scores(task, row), self.scores(task, other)) for task in self.tasks]
        both = [(x, y) for x, y in pairs if len(x) and len(y)]
        if row == other or not both:
            return None
        return improvement([x for x, _ in both], [y for _, y in both])


def said(found: Estimate | None, digits: int = 2) -> str:
    """Returns `value [low, high]`, without an interval where there is none."""
    if found is None:
        return "-"
    text = f"{found.value:.{digits}f}"
    return (
        text if np.isnan(found.low) else f"{text} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    )


def cell(values: Sequence[float]) -> str:
    """Returns `mean [low, high] (n)` of the values of n seeds, "-" for none."""
    if not values:
        return "-"
    runs = np.array(values)
    return f"{said(mean([runs]), 3 if np.abs(runs).max() < 10 else 1)} ({len(runs)})"


def task_table(found: Found, task: str) -> str:
    """Returns a task's table: scores on the way, the best of them, score and return at the end."""
    of_unit = found.unit(task)
    values: dict[str, Callable[[Outcome], float]] = {
        f"at {step:,}": lambda outcome, step=step: outcome.at(step) for step in found.plan.at
    }
    values["best on the way"] = lambda outcome: float(outcome.curve.max())
    values[f"**{of_unit} at the end**"] = lambda outcome: outcome.score
    if of_unit != scores.RETURN:
        values["return at the end"] = lambda outcome: outcome.final_return
    there = {str(row): found.of(task, row) for row in found.plan.rows}
    columns = {
        title: {row: [value(outcome) for outcome in outcomes] for row, outcomes in there.items()}
        for title, value in values.items()
    }
    return table(columns, list(there), cell, "method, start")


def pooled_table(found: Found) -> str:
    """Returns the table of all tasks: IQM, mean, and probabilities of improvement."""
    full = list(dict.fromkeys(Row(row.method, BOTH) for row in found.plan.rows))
    body = []
    for row in found.plan.rows:
        n_runs = sum(len(found.scores(task, row)) for task in found.tasks)
        if not n_runs:
            continue
        pooled = found.pooled(row)
        n_tasks = sum(len(found.scores(task, row)) > 0 for task in found.tasks)
        aggregates = [said(of(pooled)) if pooled else "-" for of in (iqm, mean)]
        over = [Row(row.method, SCRATCH), *full]
        chances = [said(found.improvement(row, other)) for other in over]
        body.append([str(row), f"{n_runs}, {n_tasks}", *aggregates, *chances])
    head = ["method, start", "runs, tasks", "IQM", "mean", "P(> own scratch)"]
    return markdown([*head, *(f"P(> {row})" for row in full)], body)


def cost_table(found: Found) -> str:
    """Returns what a run of each row took, the mean over its tasks and seeds."""
    body = []
    for row in found.plan.rows:
        runs = [outcome.costs for task in found.tasks for outcome in found.of(task, row)]
        if not runs:
            continue
        took = {name: float(np.mean([costs[name] for costs in runs])) for name in COSTS}
        rate = took["grad_steps"] / max(took["learn_cpu_s"], 1e-9)
        counts = [f"{took[name]:,.0f}" for name in ("grad_steps", "offline_grad_steps")]
        body.append(
            [str(row), *counts, f"{rate:,.0f}", f"{took['cpu_s']:,.0f}", f"{took['wall_s']:,.0f}"]
        )
    head = ["method, start", "grad_steps", "of these before env_step 0", "grad_steps / s"]
    return markdown([*head, "cpu_s", "wall_s"], body)


def run_rows(found: Found) -> list[dict[str, Any]]:
    """Returns a row for each run."""
    return [
        {
            **_named(outcome),
            "unit": found.unit(outcome.job.task),
            "score": outcome.score,
            "best_on_the_way": float(outcome.curve.max()),
            "return": outcome.final_return,
            "success": "" if outcome.final_success is None else outcome.final_success,
            **{f"at_{step}": outcome.at(step) for step in found.plan.at},
            **{name: round(outcome.costs[name], 2) for name in COSTS},
            **{
                name: outcome.made.get(name, "unknown") for name in ("commit", "machine", "command")
            },
        }
        for outcome in found.outcomes
    ]


def curve_rows(found: Found) -> list[dict[str, Any]]:
    """Returns a row for each evaluation on the way of each run."""
    return [
        {
            **_named(outcome),
            "env_step": step,
            "return": outcome.mean_return[i],
            "success": "" if outcome.success is None else outcome.success[i],
        }
        for outcome in found.outcomes
        for i, step in enumerate(outcome.env_step)
    ]


def _named(outcome: Outcome) -> dict[str, Any]:
    job = outcome.job
    return {"task": job.task, "method": job.row.method, "start": job.row.start, "seed": job.seed}
