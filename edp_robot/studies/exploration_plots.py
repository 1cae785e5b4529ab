"""The figures of the study of exploration: coverage over env_steps, maps of visits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.studies.exploration_runs import ARM, METHODS, PAPER, Result
from edp_robot.studies.plots import BLUE, GREEN, GREY, INK, ORANGE, new_figure, png
from edp_robot.studies.study_options import MAZE_PREFIX
from edp_robot.training.checkpoint import load_tree
from sim.tasks.mazes import Maze

# colour and marker, so that no two lines differ by colour alone
LOOKS = {
    "edp": (BLUE, "o"),
    "edp-network": (INK, "v"),
    "rnd": (ORANGE, "s"),
    "particle": (GREEN, "^"),
    "random": (GREY, "D"),
}
PAPER_LABEL = "EDP, paper"
CAP_LABEL = "cap of the metric"
MOST = 0.995  # quantile of the visits that ends the colour scale; a few bins in corners hold more


def coverage(tasks: Sequence[str], results: Sequence[Result]) -> bytes:
    """Returns a panel for each task: coverage over env_steps.

    A line shows the mean of the seeds, a band the least and the most.
    """
    n_columns = min(4, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    figure = new_figure(3.0 * n_columns + 0.4, 2.5 * n_rows + 0.6)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    lines: dict[str, Any] = {}
    for axis, task in zip(axes, tasks, strict=False):
        for result in results:
            if result.job.task == task:
                lines[METHODS[result.job.name].title] = _curve(axis, result)
        lines |= _references(axis, task)
        title = task if task == ARM else f"maze {_short(task)}"
        axis.set(title=title, ylim=(0, 1.05), xlabel="env_steps [thousands]")
        axis.set_xlim(left=0)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    for axis in axes[::n_columns]:
        axis.set_ylabel("coverage")
    order = [
        k
        for k in [*(made.title for made in METHODS.values()), PAPER_LABEL, CAP_LABEL]
        if k in lines
    ]
    place = {"loc": "outside lower center", "ncols": min(len(order), 2 * n_columns)}
    figure.legend([lines[k] for k in order], order, frameon=False, **place)
    return png(figure)


def _curve(axis: Any, result: Result) -> Any:
    """Draws one run; returns its line."""
    colour, marker = LOOKS[result.job.name]
    x = result.env_step / 1e3
    curves = result.curves
    axis.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.25, lw=0)
    marks = {"marker": marker, "ms": 4, "markevery": max(1, len(x) // 6)}
    (line,) = axis.plot(x, curves.mean(0), color=colour, lw=1.8, **marks)
    return line


def _references(axis: Any, task: str) -> dict[str, Any]:
    """Draws the paper's figure, and the metric's cap if it is below 1; returns lines by label."""
    if task == ARM:
        return {}
    lines = {PAPER_LABEL: axis.axhline(PAPER[_short(task)][0], color=INK, ls="--", lw=1.2)}
    cap = Maze.load(task).max_coverage
    if cap < 1:
        lines[CAP_LABEL] = axis.axhline(cap, color=INK, ls=":", lw=1.2)
    return lines


def visits(tasks: Sequence[str], methods: Sequence[str], results: Sequence[Result]) -> bytes:
    """Returns a map for each method (row) and maze (column): seed 0's visits of each bin.

    Args:
        tasks: Names of the mazes' tasks.
        methods: Names of the methods.
        results: The complete runs.
    """
    mazes = [Maze.load(task) for task in tasks]
    there = {(r.job.task, r.job.name): r for r in results}
    counts = {key: _counts_of(r) for key, r in there.items()}
    norm = _colour_scale([c for c in counts.values() if c is not None])
    ratios = [float(np.divide(*(m.high - m.low))) for m in mazes]
    figure = new_figure(1.9 * sum(ratios) + 1.2, 2.2 * len(methods) + 0.3)
    axes = figure.subplots(len(methods), len(mazes), squeeze=False, width_ratios=ratios)
    image = None
    for row, method in zip(axes, methods, strict=True):
        for axis, task, maze in zip(row, tasks, mazes, strict=True):
            image = _map(axis, maze, counts.get((task, method)), norm) or image
            result = there.get((task, method))
            axis.set_xlabel("no run" if result is None else f"coverage {result.coverage[0]:.2f}")
        row[0].set_ylabel(METHODS[method].title, fontsize=11)
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.set_title(f"maze {_short(task)}", fontsize=11)
    if image is not None:
        look = {"shrink": 0.6, "aspect": 30, "pad": 0.01, "extend": "max"}
        figure.colorbar(image, ax=axes, label="visits to a bin, seed 0", **look)
    return png(figure)


def _colour_scale(counts: Sequence[np.ndarray]) -> Any:
    """Returns the logarithmic scale of the visits in all maps."""
    from matplotlib.colors import LogNorm

    visited = np.concatenate([[1], *(c[c > 0] for c in counts)])
    return LogNorm(1, max(10.0, float(np.quantile(visited, MOST))))


def _map(axis: Any, maze: Maze, counts: np.ndarray | None, norm: Any) -> Any:
    """Draws walls and visits `counts` (nx, ny) if there are any; returns the image or None."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap

    low = maze.low
    high = maze.high
    image = None
    if counts is not None:
        # the palest colour is left out, so that one visit does not look like none
        cmap = ListedColormap(colormaps["viridis_r"](np.linspace(0.15, 1, 256)))
        look = {"norm": norm, "cmap": cmap, "interpolation": "none"}
        extent = (low[0], high[0], low[1], high[1])
        seen = np.ma.masked_equal(counts.T, 0)
        image = axis.imshow(seen, origin="lower", extent=extent, **look)
    look = {"colors": INK, "linewidths": 1.2, "capstyle": "projecting"}
    axis.add_collection(LineCollection(list(_walls(maze.name)), **look))
    margin = 0.02 * (high - low)
    left, bottom = low - margin
    right, top = high + margin
    axis.set(xticks=[], yticks=[], aspect="equal", xlim=(left, right), ylim=(bottom, top))
    axis.spines[:].set_visible(False)
    return image


def _counts_of(result: Result) -> np.ndarray | None:
    """Returns seed 0's visits of each bin (nx, ny), or None where the run folder lacks them."""
    path = result.job.folder / "checkpoint.safetensors"
    try:
        return visit_counts(path, result.job.task, len(result.coverage), path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError):
        return None


@lru_cache(maxsize=128)
def visit_counts(checkpoint: Path, task: str, n_seeds: int, changed_ns: int) -> np.ndarray:
    """Returns how often the first learner was in each bin (nx, ny) int.

    Args:
        checkpoint: The run's checkpoint.
        task: Name of the maze's task.
        n_seeds: Learners in the run.
        changed_ns: When the checkpoint was written; a newer one is read again.

    Raises:
        OSError, ValueError, KeyError: There is no checkpoint, it is damaged, or it has no replay.
    """
    maze = Maze.load(task)
    next_obs = load_tree(checkpoint)["replay"]["arrays"]["next_obs"].numpy()
    positions = next_obs[:, : next_obs.shape[1] // n_seeds, :2].reshape(-1, 2)
    n_bins = maze.n_bins.astype(int)
    return np.bincount(maze.bin_index(positions), minlength=int(n_bins.prod())).reshape(n_bins)


@cache
def _walls(name: str) -> np.ndarray:
    """Returns a maze's walls (n_walls, 2, 2): end points of unit segments."""
    text = resources.files("sim").joinpath("assets/mazes.json").read_text()
    return np.array(json.loads(text)[name]["walls"])


def _short(task: str) -> str:
    return task.removeprefix(MAZE_PREFIX)
