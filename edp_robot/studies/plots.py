"""Figures, each a function from numbers to PNG bytes; colours are the same thing everywhere."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

BLUE, ORANGE, GREY, GREEN = "#2364aa", "#e07a1f", "#9aa3ad", "#3a9d5d"


def _figure(n_columns: int = 1, size: tuple[float, float] = (6.0, 3.2)):
    """Returns (figure, axes array) without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "axes.titlesize": 10}
    )
    figure, axes = plt.subplots(1, n_columns, figsize=size, squeeze=False, layout="constrained")
    return figure, axes[0]


def _png(figure) -> bytes:
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def workspace(voxels: Mapping[str, np.ndarray], reachable: np.ndarray, voxel_m: float) -> bytes:
    """Returns the desk from above for each method: the darker, the more of the cubes above a spot were visited.

    Args:
        voxels: name to visited cubes (n, 3) int.
        reachable: reachable cubes (m, 3) int.
        voxel_m: edge of a cube [m].
    """
    figure, axes = _figure(len(voxels), (4.2 * len(voxels), 4.0))
    low, high = reachable.min(0)[:2], reachable.max(0)[:2] + 1
    edges = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
    total = np.histogram2d(reachable[:, 0], reachable[:, 1], edges)[0]
    known = set(map(tuple, reachable.tolist()))
    image = None
    for axis, (name, cubes) in zip(axes, voxels.items(), strict=True):
        inside = np.array([c for c in cubes.tolist() if tuple(c) in known] or np.zeros((0, 3)))
        seen = np.histogram2d(inside[:, 0], inside[:, 1], edges)[0]
        share = np.where(total > 0, seen / np.maximum(total, 1), np.nan)
        extent = [v * voxel_m * 100 for v in (low[1], high[1], low[0], high[0])]
        image = axis.imshow(share, extent=extent, origin="lower", vmin=0, vmax=1, cmap="Blues")
        axis.set(
            title=f"{name}: {len(inside) / len(reachable):.0%}",
            xlabel="left [cm]",
            ylabel="forward [cm]",
        )
        axis.invert_xaxis()
    if image is not None:
        figure.colorbar(image, ax=axes, label="share of reachable cubes visited", shrink=0.8)
    return _png(figure)


def collage(rows: list[list[bytes]], width: int = 1500) -> bytes:
    """Returns pictures (PNG bytes) set in rows, each row scaled to the same width."""
    from PIL import Image

    bands = []
    for row in rows:
        parts = [Image.open(io.BytesIO(data)).convert("RGB") for data in row]
        height = min(part.height for part in parts)
        parts = [part.resize((part.width * height // part.height, height)) for part in parts]
        band = Image.new("RGB", (sum(part.width for part in parts), height), "white")
        for i, part in enumerate(parts):
            band.paste(part, (sum(p.width for p in parts[:i]), 0))
        bands.append(band.resize((width, band.height * width // band.width)))
    page = Image.new("RGB", (width, sum(band.height for band in bands)), "white")
    for i, band in enumerate(bands):
        page.paste(band, (0, sum(b.height for b in bands[:i])))
    buffer = io.BytesIO()
    page.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def curves(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    x_label: str,
    y_label: str,
    top: float | None = None,
) -> bytes:
    """Returns lines, one for each name to (x, y)."""
    figure, (axis,) = _figure()
    for (name, (x, y)), colour in zip(series.items(), (BLUE, ORANGE, GREEN, GREY), strict=False):
        axis.plot(x, y, color=colour, lw=2, marker="o", ms=3, label=name)
    axis.set(xlabel=x_label, ylabel=y_label, ylim=(0, top))
    axis.legend(frameon=False)
    return _png(figure)


def teacher_and_student(teacher: np.ndarray, student: np.ndarray) -> bytes:
    """Returns the student's actions against the teacher's for the same noise, (n, act_dim) each, in [-1, 1]."""
    figure, (left, right) = _figure(2, (8.4, 3.4))
    left.plot([-1, 1], [-1, 1], color=GREY, lw=1)
    left.scatter(teacher.ravel(), student.ravel(), s=2, alpha=0.25, color=BLUE)
    left.set(
        xlabel="teacher, 15 steps", ylabel="student, 1 step", title="same observation, same noise"
    )
    bins = np.linspace(-1, 1, 41)
    right.hist(teacher.ravel(), bins, color=GREY, alpha=0.7, label="teacher", density=True)
    right.hist(
        student.ravel(), bins, color=BLUE, histtype="step", lw=2, label="student", density=True
    )
    right.set(xlabel="action", title="distribution of all action elements")
    right.legend(frameon=False)
    return _png(figure)


def latencies(samples_us: Mapping[str, np.ndarray]) -> bytes:
    """Returns, for each name, the share of calls slower than x [us]; both axes logarithmic, so that tails show."""
    figure, (axis,) = _figure(size=(6.4, 3.4))
    for (name, values), colour in zip(
        samples_us.items(), (ORANGE, GREEN, BLUE, GREY, "#8d5fb0"), strict=False
    ):
        x = np.sort(np.asarray(values, float))
        axis.step(
            x,
            1 - np.arange(len(x)) / len(x),
            color=colour,
            lw=1.8,
            label=f"{name} (p50 {np.median(x):.0f} us)",
        )
    axis.set(xscale="log", yscale="log", xlabel="latency [us]", ylabel="share of calls slower")
    axis.legend(frameon=False, fontsize=8)
    return _png(figure)


def control_times(late_ns: np.ndarray, work_ns: np.ndarray, period_ns: float) -> bytes:
    """Returns when ticks began after their schedule, and when their work was done, against the deadline [us]."""
    figure, (left, right) = _figure(2, (8.4, 3.0))
    left.plot(late_ns / 1e3, color=BLUE, lw=0.7)
    left.set(
        xlabel="tick",
        ylabel="start after schedule [us]",
        title="lateness of each tick",
        ylim=(0, None),
    )
    right.hist((late_ns + work_ns) / 1e3, np.geomspace(10, period_ns / 1e3 * 1.2, 60), color=BLUE)
    right.axvline(period_ns / 1e3, color=ORANGE, lw=2, label="deadline")
    right.set(
        xscale="log",
        xlabel="work done after schedule [us]",
        ylabel="ticks",
        title="against the deadline",
    )
    right.set_yscale("log")
    right.legend(frameon=False)
    return _png(figure)
