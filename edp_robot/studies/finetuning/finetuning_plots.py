"""The figures of the study of fine-tuning: curves of each task, and aggregates of all."""

from __future__ import annotations

from typing import Any

import numpy as np

from edp_robot.studies.domains.domain_plots import COLOURS, MARKERS
from edp_robot.studies.finetuning.bootstrap import Estimate, iqm, mean
from edp_robot.studies.finetuning.finetuning_tables import Found
from edp_robot.studies.finetuning.study_rows import BOTH, DATA, SCRATCH, WEIGHTS, Row
from edp_robot.studies.plots import GREY, new_figure, png

MOST = 12  # lines in a panel
LINES = {BOTH: "-", WEIGHTS: "--", DATA: ":", SCRATCH: "-."}
FILLED = {BOTH: "full", WEIGHTS: "left", DATA: "right", SCRATCH: "none"}


def looks(found: Found) -> dict[Row, dict[str, Any]]:
    """Returns the look of each row: a colour and marker a method, a line and filling a start."""
    methods = list(dict.fromkeys(row.method for row in found.plan.rows))
    return {
        row: {
            "color": COLOURS[methods.index(row.method) % len(COLOURS)],
            "marker": MARKERS[methods.index(row.method) % len(MARKERS)],
            "ls": LINES[row.start],
            "fillstyle": FILLED[row.start],
        }
        for row in found.plan.rows
    }


def curves_figure(found: Found) -> bytes:
    """Returns panels of each task: success, where there is one, and return over env_steps.

    A line is the mean of the seeds. A band is its bootstrap interval. Of many rows it shows those
    that `drawn` returns.
    """
    panels = [(task, name) for task in found.tasks for name in _measures(found, task)]
    n_columns = min(4 if len(panels) > 2 else 2, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(max(7.0, 3.4 * n_columns), 2.7 * n_rows + 0.9)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    for axis, (task, name) in zip(axes, panels, strict=False):
        for row in drawn(found):
            lines |= _line(axis, found, task, row, name, looks(found)[row])
        axis.set(title=task, xlabel="env_steps", ylabel=name.replace("mean_", ""))
        axis.locator_params(axis="x", nbins=5)
        if name == "success":
            axis.set_ylim(-0.03, 1.03)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.legend(lines.values(), lines, frameon=False, loc="outside lower center", ncols=4)
    return png(figure)


def drawn(found: Found) -> list[Row]:
    """Returns the rows that curves show: all, or of more than MOST the starts of the reference.

    Of the other methods they are then `both` alone.
    """
    rows = list(found.plan.rows)
    if len(rows) <= MOST:
        return rows
    return [row for row in rows if row.start == BOTH or row.method == found.plan.reference.method]


def _measures(found: Found, task: str) -> list[str]:
    """Returns what is drawn of a task: names of an Outcome's curves."""
    there = [outcome for outcome in found.outcomes if outcome.job.task == task]
    has_success = all(outcome.success is not None for outcome in there)
    return ["success", "mean_return"] if has_success else ["mean_return"]


def _line(
    axis: Any, found: Found, task: str, row: Row, name: str, look: dict[str, Any]
) -> dict[str, Any]:
    """Draws a row's curve; returns its line by its name, {} where there is no run of its own.

    Args:
        axis: Where to draw.
        found: What the runs gave.
        task: Name of the task.
        row: The row.
        name: Name of the curve.
        look: How it looks.
    """
    runs = found.of(task, row)
    other = row._replace(start=found.plan.starts.get((task, row), ""))
    if not runs or (other != row and other in drawn(found)):
        return {}
    x = runs[0].env_step
    seeds = np.array([vars(outcome)[name] for outcome in runs])
    means = [mean([column]) for column in seeds.T]
    axis.fill_between(
        x, [m.low for m in means], [m.high for m in means], color=look["color"], alpha=0.13, lw=0
    )
    every = max(1, len(x) // 6)
    (line,) = axis.plot(x, seeds.mean(0), lw=1.6, ms=5, markevery=every, **look)
    return {str(row): line}


def iqm_figure(found: Found) -> bytes:
    """Returns two panels: each row's IQM, and the chance that the reference scores higher."""
    rows = [row for row in found.plan.rows if any(found.of(task, row) for task in found.tasks)]
    reference = found.plan.reference
    pooled = {row: found.pooled(row) for row in rows}
    chances = {row: found.improvement(reference, row) for row in rows}
    figure = new_figure(9.0, 0.32 * len(rows) + 1.3)
    left, right = figure.subplots(1, 2, sharey=True)
    places = {row: -i for i, row in enumerate(rows)}
    for row, look in looks(found).items():
        if row in places:
            _point(left, iqm(pooled[row]) if pooled[row] else None, places[row], look)
            _point(right, chances[row], places[row], look)
    units = sorted({found.unit(task) for task in found.pooled_tasks})
    left.set(title="interquartile mean", xlabel=" or ".join(units))
    left.set_yticks(list(places.values()), [str(row) for row in rows])
    left.set_ylim(-len(rows) + 0.4, 0.6)
    right.axvline(0.5, color=GREY, lw=0.8)
    right.set(title=f"P({reference} > row)", xlabel="probability", xlim=(-0.03, 1.03))
    for axis in (left, right):
        axis.grid(axis="x", lw=0.4, alpha=0.6)
    return png(figure)


def _point(axis: Any, found: Estimate | None, y: float, look: dict[str, Any]) -> None:
    """Draws an estimate with its interval at the height `y`."""
    if found is None:
        return
    axis.plot([found.low, found.high], [y, y], color=look["color"], lw=2.5, alpha=0.45)
    kept = {name: look[name] for name in ("color", "marker", "fillstyle")}
    axis.plot([found.value], [y], ms=6, **kept)
