"""Draws a soak: the memory over requests, and latencies beside an attack and during reloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policy_server.bench.load.figure import tail_curve

TITLES = {
    "requests": "Memory over requests",
    "hostile": "A robot beside a hostile peer",
    "reload": "Clients during reloads",
}


def draw(folder: Path) -> Path | None:
    """Draws soak.png from the PART.npz of `folder`; returns its path, None where there are none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = [name for name in TITLES if (folder / f"{name}.npz").exists()]
    if not parts:
        return None
    figure = Figure(figsize=(5 * len(parts), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            _DRAWN[name](axes, dict(arrays))
        axes.set_title(TITLES[name])
        axes.grid(alpha=0.3)
    path = folder / "soak.png"
    figure.savefig(path, dpi=130)
    return path


def _memory(axes, arrays: dict[str, np.ndarray]) -> None:
    n_sent, _, rss_mib, _ = arrays["rss"].T
    axes.plot(n_sent, rss_mib)
    axes.set(xlabel="requests", ylabel="server's RSS [MiB]", ylim=(0, 1.2 * rss_mib.max()))


def _tails(axes, arrays: dict[str, np.ndarray]) -> None:
    """Draws the share of requests slower than a latency, a curve for each array [us]."""
    colours: dict[str, str] = {}
    for name, latencies_us in arrays.items():
        if name.endswith("_us") and len(latencies_us):
            label = name.removesuffix("_us").replace("_", ", ")
            attack, _, kind = label.rpartition(", ")
            colour = colours.setdefault(attack, f"C{len(colours)}")
            latency_us, share = tail_curve(latencies_us)
            style = {"color": colour, "linestyle": _LINES.get(kind, "-"), "label": label}
            axes.step(latency_us / 1000, share, where="post", **style)
    axes.set(xlabel="latency [ms]", ylabel="share slower (1 - p)", xscale="log", yscale="log")
    axes.xaxis.set_minor_formatter("")
    axes.legend(loc="lower left", fontsize=7)


_LINES = {"alone": ":", "attacked": "-", "neighbour": "--"}
_DRAWN = {"requests": _memory, "hostile": _tails, "reload": _tails}
