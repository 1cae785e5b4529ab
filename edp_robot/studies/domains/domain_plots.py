"""The figures of the study of bodies: measures over processor time and over env_steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edp_robot.studies.domains.domain_tables import Found
from edp_robot.studies.domains.recipes import RECIPES, SCRATCH
from edp_robot.studies.plots import BLUE, GREEN, GREY, INK, ORANGE, new_figure, png

MORE = ("#a23b72", "#7b6d8d", "#c9a227", "#5fb3b3", "#c0392b")
COLOURS = (BLUE, ORANGE, GREEN, INK, GREY, *MORE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h")
LOOKS = {
    name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
    for i, name in enumerate([*RECIPES, SCRATCH])
}
N_POINTS = 60


def exploring_figure(found: Found, domains: Sequence[str]) -> bytes:
    """Returns a row of panels for each domain: its first two measures, over time and env_steps.

    A line shows the mean of the seeds as far as all got, a band the least and the most.
    """
    figure = new_figure(13.0, 2.8 * len(domains) + 0.6)
    axes = figure.subplots(len(domains), 4, squeeze=False)
    lines: dict[str, Any] = {}
    for row, domain in zip(axes, domains, strict=True):
        measures = found.measures(domain)[:2]
        panels = [(m, x) for m in measures for x in ("cpu_s", "env_step")]
        for axis, (measure, along) in zip(row, panels, strict=False):
            for recipe in RECIPES:
                lines |= _line(axis, found, domain, recipe, measure, along)
            axis.locator_params(axis="x", nbins=4)
            unit = "processor time [s]" if along == "cpu_s" else "env_steps"
            axis.set(title=f"{domain}: {measure}", xlabel=unit)
            axis.set_xlim(left=0)
            axis.set_ylim(bottom=0)
        for axis in row[len(panels) :]:
            axis.set_visible(False)
    figure.legend(
        lines.values(), lines, frameon=False, loc="outside lower center", ncols=len(LOOKS)
    )
    return png(figure)


def _line(
    axis: Any, found: Found, domain: str, recipe: str, measure: str, along: str
) -> dict[str, Any]:
    """Draws a recipe's curve; returns its line by its name, {} where there is no run.

    Args:
        axis: Where to draw.
        found: What the runs gave.
        domain: Name of the task.
        recipe: Name of the recipe.
        measure: What is drawn.
        along: `cpu_s` or `env_step`.
    """
    runs = found.curves(domain, recipe)
    if not runs:
        return {}
    end = min(vars(c)[along][-1] for c in runs)
    x = np.linspace(0, end, N_POINTS)
    y = np.array([np.interp(x, vars(c)[along], c.measures[measure]) for c in runs])
    look = LOOKS[recipe]
    axis.fill_between(x, y.min(0), y.max(0), color=look["color"], alpha=0.2, lw=0)
    (line,) = axis.plot(x, y.mean(0), lw=1.6, ms=4, markevery=N_POINTS // 6, **look)
    return {recipe: line}


def downstream_figure(found: Found, tasks: Mapping[str, Sequence[str]], at: Sequence[int]) -> bytes:
    """Returns a panel for each task: return over env_steps of fine-tuning.

    Args:
        found: What the runs gave.
        tasks: Names of the tasks by domain.
        at: env_steps at which returns were measured.
    """
    panels = [(domain, task) for domain, of_domain in tasks.items() for task in of_domain]
    n_columns = min(4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(3.2 * n_columns + 0.4, 2.6 * n_rows + 0.6)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    for axis, (domain, task) in zip(axes, panels, strict=False):
        for row in (*RECIPES, SCRATCH):
            if seeds := found.downstream(domain, row, task):
                y = np.array(seeds)
                look = LOOKS[row]
                axis.fill_between(at, y.min(0), y.max(0), color=look["color"], alpha=0.2, lw=0)
                (lines[row],) = axis.plot(at, y.mean(0), lw=1.6, ms=4, **look)
        axis.set(title=task, xlabel="env_steps", ylabel="return")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.legend(lines.values(), lines, frameon=False, loc="outside lower center", ncols=4)
    return png(figure)
