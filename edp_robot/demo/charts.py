"""The charts of the demo's report: each function turns numbers into PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from edp_robot.studies.plots import BLUE, GREEN, GREY, ORANGE, columns, png

VIOLET = "#8d5fb0"
Curve = tuple[np.ndarray, np.ndarray]  # x (n,), y (n,)


def workspace(voxels: Mapping[str, np.ndarray], reachable: np.ndarray, voxel_m: float) -> bytes:
    """Returns the desk from above for each method.

    A spot is the darker, the more of the reachable cubes above it were visited.

    Args:
        voxels: Visited cubes (n, 3) int by the method's label.
        reachable: Reachable cubes (m, 3) int.
        voxel_m: Edge of a cube [m].
    """
    figure, axes = columns(len(voxels), 4.2 * len(voxels), 4.0)
    low = reachable.min(0)[:2]
    high = reachable.max(0)[:2] + 1
    edges = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
    total = np.histogram2d(reachable[:, 0], reachable[:, 1], edges)[0]
    extent = [v * voxel_m * 100 for v in (low[1], high[1], low[0], high[0])]
    known = set(map(tuple, reachable.tolist()))
    look = {"extent": extent, "origin": "lower", "vmin": 0, "vmax": 1, "cmap": "Blues"}
    image = None
    for axis, (name, cubes) in zip(axes, voxels.items(), strict=True):
        inside = np.array([c for c in cubes.tolist() if tuple(c) in known] or np.zeros((0, 3)))
        seen = np.histogram2d(inside[:, 0], inside[:, 1], edges)[0]
        share = np.where(total > 0, seen / np.maximum(total, 1), np.nan)
        image = axis.imshow(share, **look)
        title = f"{name}: {len(inside) / len(reachable):.0%}"
        axis.set(title=title, xlabel="left [cm]", ylabel="forward [cm]")
        axis.invert_xaxis()
    if image is not None:
        figure.colorbar(image, ax=axes, label="share of reachable cubes visited", shrink=0.8)
    return png(figure)


def collage(rows: list[list[bytes]], width: int = 1500) -> bytes:
    """Returns pictures (PNG bytes) set in rows, each row scaled to the same width [pixel]."""
    from PIL import Image

    def beside(pictures: list[Image.Image]) -> Image.Image:
        height = min(part.height for part in pictures)
        scaled = [part.resize((part.width * height // part.height, height)) for part in pictures]
        band = Image.new("RGB", (sum(part.width for part in scaled), height), "white")
        left = 0
        for part in scaled:
            band.paste(part, (left, 0))
            left += part.width
        return band.resize((width, band.height * width // band.width))

    bands = [beside([Image.open(io.BytesIO(data)).convert("RGB") for data in row]) for row in rows]
    page = Image.new("RGB", (width, sum(band.height for band in bands)), "white")
    top = 0
    for band in bands:
        page.paste(band, (0, top))
        top += band.height
    buffer = io.BytesIO()
    page.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def curves(
    series: Mapping[str, Curve], x_label: str, y_label: str, top: float | None = None
) -> bytes:
    """Returns one line for each label.

    Args:
        series: (x, y) by label.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        top: End of the vertical axis. None: as the data wants.
    """
    figure, (axis,) = columns(1)
    for (name, (x, y)), colour in zip(series.items(), (BLUE, ORANGE, GREEN, GREY), strict=False):
        axis.plot(x, y, color=colour, lw=2, marker="o", ms=3, label=name)
    axis.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, top))
    axis.legend(frameon=False)
    return png(figure)


def teacher_and_student(teacher: np.ndarray, student: np.ndarray) -> bytes:
    """Returns the student's actions against the teacher's for the same noise.

    Both (n, act_dim), in [-1, 1].
    """
    figure, (left, right) = columns(2, 8.4, 3.4)
    left.plot([-1, 1], [-1, 1], color=GREY, lw=1)
    left.scatter(teacher.ravel(), student.ravel(), s=2, alpha=0.25, color=BLUE)
    left.set(xlabel="teacher, 15 steps", ylabel="student, 1 step")
    left.set_title("same observation, same noise")
    bins = np.linspace(-1, 1, 41)
    right.hist(teacher.ravel(), bins, density=True, color=GREY, alpha=0.7, label="teacher")
    line = {"color": BLUE, "histtype": "step", "lw": 2}
    right.hist(student.ravel(), bins, density=True, label="student", **line)
    right.set(xlabel="action", title="distribution of all action elements")
    right.legend(frameon=False)
    return png(figure)


def latencies(samples_us: Mapping[str, np.ndarray]) -> bytes:
    """Returns, for each label, the share of calls slower than x [us].

    Both axes are logarithmic, so that the tails show.
    """
    figure, (axis,) = columns(1, 6.4, 3.4)
    colours = (ORANGE, GREEN, BLUE, GREY, VIOLET)
    for (name, values), colour in zip(samples_us.items(), colours, strict=False):
        x = np.sort(np.asarray(values, float))
        slower = 1 - np.arange(len(x)) / len(x)
        axis.step(x, slower, color=colour, lw=1.8, label=f"{name} (p50 {np.median(x):.0f} us)")
    axis.set(xscale="log", yscale="log", xlabel="latency [us]", ylabel="share of calls slower")
    axis.legend(frameon=False, fontsize=8)
    return png(figure)


def control_times(late_ns: np.ndarray, work_ns: np.ndarray, period_ns: float) -> bytes:
    """Returns how late each tick began, and when its work was done against the deadline [us].

    Args:
        late_ns: Start of each tick after its schedule (n_ticks,) [ns].
        work_ns: Time that its work took (n_ticks,) [ns].
        period_ns: Control period [ns].
    """
    figure, (left, right) = columns(2, 8.4, 3.0)
    left.plot(late_ns / 1e3, color=BLUE, lw=0.7)
    left.set(xlabel="tick", ylabel="start after schedule [us]", ylim=(0, None))
    left.set_title("lateness of each tick")
    bins = np.geomspace(10, period_ns / 1e3 * 1.2, 60)
    right.hist((late_ns + work_ns) / 1e3, bins, color=BLUE)
    right.axvline(period_ns / 1e3, color=ORANGE, lw=2, label="deadline")
    right.set(xscale="log", xlabel="work done after schedule [us]", ylabel="ticks")
    right.set(yscale="log", title="against the deadline")
    right.legend(frameon=False)
    return png(figure)
