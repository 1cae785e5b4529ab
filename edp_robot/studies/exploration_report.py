"""The tables of the study of exploration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.studies import exploration_plots as plots
from edp_robot.studies.exploration_runs import ARM, METHODS, PAPER, Result
from edp_robot.studies.study_options import MAZE_PREFIX
from edp_robot.studies.tables import as_csv, bold, cell, markdown
from policy_server.contract.disk.files import write_atomic
from sim.tasks.mazes import Maze

COSTS = ["env_steps", "grad_steps", "wall s per seed"]
NOTE = """Coverage by the released metric, after `env_steps` control steps of one seed. Cells: mean
+- std (n) over n seeds, std with n - 1 in the denominator. The best measured mean is bold, and so
are ties at the digits shown. `cap of the metric` is the most that it can give in a maze.
`grad_steps`: updates of one seed. The n seeds of a run are trained at once in one process;
`wall s per seed` is the run's wall time / n, the mean over the mazes. The paper's figures are of
10 seeds (arXiv 2502.07279, Table 1; it does not say how its std is taken)."""
ARM_NOTE = """The arm. Coverage: share of the reachable workspace that the end effector visited.
Presses: episodes in which the button was pressed. Both of one seed, mean +- std (n) as above."""


def write(
    out: Path, tasks: Sequence[str], methods: Sequence[str], results: list[Result], command: str
) -> None:
    """Writes runs.csv, curves.csv, table.md, coverage.png and (for mazes) visits.png.

    Args:
        out: Folder of the files.
        tasks: Names of the tasks.
        methods: Names of the methods.
        results: The complete runs.
        command: The command that repeats the study.
    """
    write_atomic(out / "runs.csv", as_csv(run_rows(results)))
    write_atomic(out / "curves.csv", as_csv(curve_rows(results)))
    parts = [*tables(tasks, methods, results), about(results, command, date.today().isoformat())]
    write_atomic(out / "table.md", "\n\n".join(parts) + "\n")
    write_atomic(out / "coverage.png", plots.coverage(tasks, results))
    if mazes := [task for task in tasks if task != ARM]:
        write_atomic(out / "visits.png", plots.visits(mazes, methods, results))


def run_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Returns a row for each seed of each run; `wall_s` is the time of all its seeds together."""
    rows = []
    for r in results:
        costs = {"env_steps": r.env_steps, "grad_steps": r.grad_steps, "wall_s": r.wall_s}
        made = {"commit": r.commit, "machine": r.machine, "command": r.command}
        shared = {**costs, "n_seeds": len(r.coverage), **made}
        for k, coverage in enumerate(r.coverage):
            presses = "" if r.presses is None else int(r.presses[k])
            named = {"task": r.job.task, "method": r.job.name, "seed": k}
            rows.append({**named, "coverage": coverage, "presses": presses, **shared})
    return rows


def curve_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Returns a row for each logged env_step of each seed."""
    rows = []
    for r in results:
        for k, curve in enumerate(r.curves):
            named = {"task": r.job.task, "method": r.job.name, "seed": k}
            points = zip(r.env_step, curve, strict=True)
            rows += [{**named, "env_step": step, "coverage": value} for step, value in points]
    return rows


def tables(tasks: Sequence[str], methods: Sequence[str], results: list[Result]) -> list[str]:
    """Returns the parts of table.md: title, the mazes' table, the arm's table.

    Args:
        tasks: Names of the tasks.
        methods: Names of the methods.
        results: The complete runs.
    """
    mazes = [task.removeprefix(MAZE_PREFIX) for task in tasks if task != ARM]
    parts = ["# Exploration without reward"]
    if mazes:
        parts += [maze_table(mazes, methods, results), NOTE]
    if any(r.job.task == ARM for r in results):
        parts += [arm_table(methods, results), ARM_NOTE]
    return parts


def about(results: Iterable[Result], command: str, day: str) -> str:
    """Returns where, from what and how the results were made, as a Markdown list.

    Args:
        results: The complete runs.
        command: The command that repeats the study.
        day: When the list is written.
    """
    made = list(results)
    said = {"Machine": {r.machine for r in made}, "Commit": {r.commit for r in made}}
    said |= {"Command": {f"`{command}`"}, "Written": {day}}
    return "\n".join(f"- {k}: {'; '.join(sorted(v))}" for k, v in said.items())


def maze_table(mazes: Sequence[str], methods: Sequence[str], results: Iterable[Result]) -> str:
    """Returns the Markdown table of the mazes: methods, the paper's EDP, the metric's cap.

    Args:
        mazes: Short names of the mazes, like "a".
        methods: Names of the methods.
        results: The complete runs.
    """
    there = {(r.job.name, r.job.task): r for r in results}
    rows = [[there.get((method, MAZE_PREFIX + maze)) for maze in mazes] for method in methods]
    cells = _measured(rows, lambda r: r.coverage, digits=2)
    blank = ["-"] * len(COSTS)
    paper = ["{:.2f} +- {:.2f} (10)".format(*PAPER[maze]) for maze in mazes]
    caps = [f"{Maze.load(MAZE_PREFIX + maze).max_coverage:.2f}" for maze in mazes]
    body = [
        *_body(methods, cells, rows),
        ["EDP (paper)", *paper, *blank],
        ["cap of the metric", *caps, *blank],
    ]
    return markdown(["method", *mazes, *COSTS], body)


def arm_table(methods: Sequence[str], results: Iterable[Result]) -> str:
    """Returns the Markdown table of the arm."""
    there = {r.job.name: r for r in results if r.job.task == ARM}
    rows = [[there.get(method)] for method in methods]
    coverage = _measured(rows, lambda r: r.coverage, digits=2)
    presses = _measured(rows, lambda r: r.presses, digits=1)
    cells = [[*c, *p] for c, p in zip(coverage, presses, strict=True)]
    return markdown(["method", "coverage", "presses", *COSTS], _body(methods, cells, rows))


def _body(
    methods: Sequence[str], cells: list[list[str]], rows: list[list[Result | None]]
) -> list[list[str]]:
    """Returns the rows of a table: label of the method, cells, costs."""
    return [
        [METHODS[method].title, *made, *_costs(row)]
        for method, made, row in zip(methods, cells, rows, strict=True)
    ]


def _costs(row: Iterable[Result | None]) -> list[str]:
    """Returns [env_steps, grad_steps, wall s per seed] of a method; ranges where counts differ."""
    there = [r for r in row if r is not None]
    if not there:
        return ["-"] * len(COSTS)
    wall = np.mean([r.wall_s / len(r.coverage) for r in there])
    counts = [_span([r.env_steps for r in there]), _span([r.grad_steps for r in there])]
    return [*counts, f"{wall:.{0 if wall >= 10 else 1}f}"]


def _span(values: list[int]) -> str:
    """Returns `least-most`, or the one value."""
    return "-".join(f"{v:,}" for v in dict.fromkeys((min(values), max(values))))


def _measured(
    rows: list[list[Result | None]], values: Callable[[Result], Any], digits: int
) -> list[list[str]]:
    """Returns the cells of (method, task) results; bold is a column's best mean at these digits."""
    means = [[round(np.mean(values(r)), digits) if r else -np.inf for r in row] for row in rows]
    best = np.max(means, axis=0)
    return [
        [
            bold(cell(values(r), digits), mean == top) if r else "-"
            for r, mean, top in zip(row, of_row, best, strict=True)
        ]
        for row, of_row in zip(rows, means, strict=True)
    ]
