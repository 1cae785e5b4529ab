"""The study's tables: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.studies import exploration_plots as plots
from edp_robot.studies.exploration_runs import ARM, MAZE_PREFIX, METHODS, PAPER, Result
from policy_server.contract.files import write_atomic
from sim.tasks.mazes import Maze

COSTS = ["env_steps", "grad_steps", "wall s per seed"]
NOTE = """Coverage by the released metric, after `env_steps` control steps of one seed. Cells: mean +- std (n) over n
seeds, std with n - 1 in the denominator; the best measured mean is bold, and so are ties at the digits shown.
`cap of the metric` is the most that it can give in a maze. `grad_steps`: updates of one seed. The n seeds of a run are
trained at once in one process; `wall s per seed` is its wall time / n, the mean over the mazes. The paper's figures are
of 10 seeds (arXiv 2502.07279, Table 1; it does not say how its std is taken)."""
ARM_NOTE = """The arm. Coverage: share of the reachable workspace that the end effector visited; presses: episodes in
which the button was pressed; both of one seed, mean +- std (n) as above."""


def mean_std(values: np.ndarray) -> tuple[float, float | None]:
    """Returns (mean, sample standard deviation (ddof 1)); None for the latter where there is one value only."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def cell(values: np.ndarray, digits: int = 2) -> str:
    """Returns `mean +- std (n)`, without std where n is 1."""
    mean, std = mean_std(values)
    spread = "" if std is None else f" +- {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread} ({len(values)})"


def line(result: Result) -> str:
    """Returns one run in one line, for the terminal."""
    job = result.job
    presses = "" if result.presses is None else f", presses {cell(result.presses, 1)}"
    return f"{job.task}, {job.method}: coverage {cell(result.coverage)}{presses}, {result.wall_s:.0f} s"


def write(
    out: Path, tasks: Sequence[str], methods: Sequence[str], results: list[Result], command: str
) -> None:
    """Writes runs.csv, curves.csv, table.md, coverage.png and (of mazes) visits.png to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "runs.csv", as_csv(run_rows(results)))
    write_atomic(out / "curves.csv", as_csv(curve_rows(results)))
    text = page(tasks, methods, results, command, date.today().isoformat())
    write_atomic(out / "table.md", text.encode())
    write_atomic(out / "coverage.png", plots.coverage(tasks, results))
    if mazes := [task for task in tasks if task != ARM]:
        write_atomic(out / "visits.png", plots.visits(mazes, methods, results))


def run_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Returns a row for each seed of each run; `wall_s` is of all its seeds together."""
    rows = []
    for r in results:
        shared = {
            "env_steps": r.env_steps,
            "grad_steps": r.grad_steps,
            "wall_s": r.wall_s,
            "n_seeds": len(r.coverage),
        }
        shared |= {"commit": r.commit, "machine": r.machine, "command": r.command}
        for k, coverage in enumerate(r.coverage):
            presses = "" if r.presses is None else int(r.presses[k])
            named = {"task": r.job.task, "method": r.job.method, "seed": k}
            rows.append({**named, "coverage": coverage, "presses": presses, **shared})
    return rows


def curve_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Returns a row for each logged env_step of each seed."""
    return [
        {
            "task": r.job.task,
            "method": r.job.method,
            "seed": k,
            "env_step": env_step,
            "coverage": value,
        }
        for r in results
        for k, curve in enumerate(r.curves)
        for env_step, value in zip(r.env_step, curve, strict=True)
    ]


def page(
    tasks: Sequence[str], methods: Sequence[str], results: list[Result], command: str, day: str
) -> str:
    """Returns the whole of table.md."""
    mazes = [task.removeprefix(MAZE_PREFIX) for task in tasks if task != ARM]
    parts = ["# Exploration without reward"]
    if mazes:
        parts += [maze_table(mazes, methods, results), NOTE]
    if any(r.job.task == ARM for r in results):
        parts += [arm_table(methods, [r for r in results if r.job.task == ARM]), ARM_NOTE]
    parts.append(about(results, command, day))
    return "\n\n".join(parts) + "\n"


def about(results: Iterable[Result], command: str, day: str) -> str:
    """Returns where, from what and how the results were made, as a Markdown list."""
    made = list(results)
    said = {"Machine": {r.machine for r in made}, "Commit": {r.commit for r in made}}
    said |= {"Command": {f"`{command}`"}, "Written": {day}}
    return "\n".join(f"- {k}: {'; '.join(sorted(v))}" for k, v in said.items())


def maze_table(mazes: Sequence[str], methods: Sequence[str], results: Iterable[Result]) -> str:
    """Returns the Markdown table of the mazes (a, b, ...): methods, the paper's EDP, the metric's cap."""
    by_job = {
        (r.job.method, r.job.task.removeprefix(MAZE_PREFIX)): r
        for r in results
        if r.job.task != ARM
    }
    rows = [[by_job.get((method, maze)) for maze in mazes] for method in methods]
    cells = _measured(rows, lambda r: r.coverage, 2)
    body = [[METHODS[m], *c, *costs(row)] for m, c, row in zip(methods, cells, rows, strict=True)]
    blank = ["-"] * len(COSTS)
    body.append(
        ["EDP (paper)", *("{:.2f} +- {:.2f} (10)".format(*PAPER[maze]) for maze in mazes), *blank]
    )
    caps = (Maze.load(f"{MAZE_PREFIX}{maze}").max_coverage for maze in mazes)
    body.append(["cap of the metric", *(f"{cap:.2f}" for cap in caps), *blank])
    return markdown(["method", *mazes, *COSTS], body)


def arm_table(methods: Sequence[str], results: Iterable[Result]) -> str:
    """Returns the Markdown table of the arm."""
    by_method = {r.job.method: r for r in results}
    rows = [[by_method.get(method)] for method in methods]
    coverage, presses = (
        _measured(rows, lambda r: r.coverage, 2),
        _measured(rows, lambda r: r.presses, 1),
    )
    body = [
        [METHODS[m], *c, *p, *costs(r)]
        for m, c, p, r in zip(methods, coverage, presses, rows, strict=True)
    ]
    return markdown(["method", "coverage", "presses", *COSTS], body)


def costs(row: Iterable[Result | None]) -> list[str]:
    """Returns [env_steps, grad_steps, wall s per seed] of a method's runs, ranges where the counts differ."""
    there = [r for r in row if r is not None]
    if not there:
        return ["-"] * len(COSTS)
    spans = [sorted({getattr(r, name) for r in there}) for name in ("env_steps", "grad_steps")]
    wall = np.mean([r.wall_s / len(r.coverage) for r in there])
    counts = ("-".join(f"{v:,}" for v in dict.fromkeys((s[0], s[-1]))) for s in spans)
    return [*counts, f"{wall:.{0 if wall >= 10 else 1}f}"]


def _measured(
    rows: list[list[Result | None]], values: Callable[[Result], Any], digits: int
) -> list[list[str]]:
    """Returns the cells of (method, task) results; in each column the best mean is bold, at the digits shown."""
    means = [[round(mean_std(values(r))[0], digits) if r else -np.inf for r in row] for row in rows]
    best = np.max(means, axis=0)
    return [
        [
            _bold(cell(values(r), digits), m == b) if r else "-"
            for r, m, b in zip(row, mean, best, strict=True)
        ]
        for row, mean in zip(rows, means, strict=True)
    ]


def _bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


def markdown(head: list[str], body: list[list[str]]) -> str:
    """Returns a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Returns the rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
