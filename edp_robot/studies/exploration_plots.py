"""The study's figures: coverage against env_steps, and maps of where each method went."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.studies.exploration_runs import ARM, MAZE_PREFIX, METHODS, PAPER, Result
from edp_robot.studies.plots import BLUE, GREEN, GREY, ORANGE
from edp_robot.training.checkpoint import load_tree
from sim.tasks.mazes import Maze

# colour and marker, so that no two lines differ by colour alone
LOOKS = {"edp": (BLUE, "o"), "rnd": (ORANGE, "s"), "particle": (GREEN, "^"), "random": (GREY, "D")}
INK = "#1d2733"


def coverage(tasks: Sequence[str], results: Sequence[Result]) -> bytes:
    """Returns a panel a task: coverage against env_steps, mean line and band from least to most over the seeds."""
    n_columns = min(4, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    figure = _figure((3.0 * n_columns + 0.4, 2.5 * n_rows + 0.6))
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    lines = {}
    for axis, task in zip(axes, tasks, strict=False):
        for result in (r for r in results if r.job.task == task):
            lines[METHODS[result.job.method]] = _curve(axis, result)
        lines |= _references(axis, task)
        axis.set(
            title=task if task == ARM else f"maze {_short(task)}",
            ylim=(0, 1.05),
            xlabel="env_steps [thousands]",
        )
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    for axis in axes[::n_columns]:
        axis.set_ylabel("coverage")
    order = [
        name for name in [*METHODS.values(), "EDP, paper", "cap of the metric"] if name in lines
    ]
    figure.legend(
        [lines[k] for k in order],
        order,
        loc="outside lower center",
        ncols=min(len(order), 2 * n_columns),
        frameon=False,
    )
    return _png(figure)


def _curve(axis: Any, result: Result) -> Any:
    """Draws one run; returns its line."""
    colour, marker = LOOKS[result.job.method]
    x, curves = result.env_step / 1e3, result.curves
    axis.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.25, lw=0)
    every = max(1, len(x) // 6)
    return axis.plot(x, curves.mean(0), color=colour, lw=1.8, marker=marker, ms=4, markevery=every)[
        0
    ]


def _references(axis: Any, task: str) -> dict[str, Any]:
    """Draws the paper's figure, and the metric's cap where it is below 1; returns the lines by name."""
    if task == ARM:
        return {}
    lines = {"EDP, paper": axis.axhline(PAPER[_short(task)][0], color=INK, ls="--", lw=1.2)}
    cap = Maze.load(task).max_coverage
    return (
        {**lines, "cap of the metric": axis.axhline(cap, color=INK, ls=":", lw=1.2)}
        if cap < 1
        else lines
    )


def visits(tasks: Sequence[str], methods: Sequence[str], results: Sequence[Result]) -> bytes:
    """Returns a map for each method (row) and maze (column): how often seed 0 was in each bin, on a log scale."""
    from matplotlib import colors

    mazes = [Maze.load(task) for task in tasks]
    by_job = {(r.job.task, r.job.method): r for r in results}
    counts = {key: _counts_of(r) for key, r in by_job.items()}
    visited = np.concatenate([[1], *(c[c > 0] for c in counts.values() if c is not None)])
    norm = colors.LogNorm(
        1, max(10.0, float(np.quantile(visited, 0.995)))
    )  # a few bins in corners hold far more
    ratios = [float(np.divide(*(m.high - m.low))) for m in mazes]
    figure = _figure((1.9 * sum(ratios) + 1.2, 2.2 * len(methods) + 0.3))
    axes = figure.subplots(len(methods), len(mazes), squeeze=False, width_ratios=ratios)
    image = None
    for row, method in zip(axes, methods, strict=True):
        for axis, task, maze in zip(row, tasks, mazes, strict=True):
            image = _map(axis, maze, counts.get((task, method)), norm) or image
            result = by_job.get((task, method))
            axis.set_xlabel("no run" if result is None else f"coverage {result.coverage[0]:.2f}")
        row[0].set_ylabel(METHODS[method], fontsize=11)
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.set_title(f"maze {_short(task)}", fontsize=11)
    if image is not None:
        figure.colorbar(
            image,
            ax=axes,
            label="visits to a bin, seed 0",
            shrink=0.6,
            aspect=30,
            pad=0.01,
            extend="max",
        )
    return _png(figure)


def _map(axis: Any, maze: Maze, counts: np.ndarray | None, norm: Any) -> Any:
    """Draws walls and, where there are `counts` (nx, ny), visits; returns the image, None without."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap

    cmap = ListedColormap(
        colormaps["viridis_r"](np.linspace(0.15, 1, 256))
    )  # one visit must not look like none
    image, (low, high) = None, (maze.low, maze.high)
    if counts is not None:
        seen, extent = np.ma.masked_equal(counts.T, 0), (low[0], high[0], low[1], high[1])
        image = axis.imshow(
            seen, origin="lower", extent=extent, norm=norm, cmap=cmap, interpolation="none"
        )
    axis.add_collection(
        LineCollection(list(_walls(maze.name)), colors=INK, linewidths=1.2, capstyle="projecting")
    )
    margin = 0.02 * (high - low)
    axis.set(xticks=[], yticks=[], aspect="equal")
    axis.set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + margin[1]),
    )
    axis.spines[:].set_visible(False)
    return image


def _counts_of(result: Result) -> np.ndarray | None:
    """Returns how often seed 0 was in each bin (nx, ny); None where the run folder does not hold it."""
    path = result.job.folder / "checkpoint.safetensors"
    try:
        return visit_counts(path, result.job.task, len(result.coverage), path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError):
        return None


@lru_cache(maxsize=128)
def visit_counts(checkpoint: Path, task: str, n_seeds: int, changed_ns: int) -> np.ndarray:
    """Returns how often the first of `n_seeds` learners was in each bin, (nx, ny) int; `changed_ns` renews the cache.

    Raises:
        OSError, ValueError, KeyError: no checkpoint, damaged, without a replay.
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


def _figure(size: tuple[float, float]) -> Any:
    """Returns a figure without a screen, and without pyplot's memory of it."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
