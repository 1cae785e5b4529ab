"""What all figures share: colours, a figure without a screen, PNG bytes."""

from __future__ import annotations

import io
from typing import Any

BLUE = "#2364aa"
ORANGE = "#e07a1f"
GREY = "#9aa3ad"
GREEN = "#3a9d5d"
INK = "#1d2733"
SPINES: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False}
SIZES: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 10}


def new_figure(width: float, height: float) -> Any:
    """Returns an empty figure [inch] that needs no screen."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(SPINES | SIZES)
    return Figure(figsize=(width, height), layout="constrained")


def columns(n: int, width: float = 6.0, height: float = 3.2) -> tuple[Any, Any]:
    """Returns (figure, axes (n,)) with `n` axes side by side.

    Args:
        n: Number of axes.
        width: Width of the figure [inch].
        height: Height of the figure [inch].
    """
    figure = new_figure(width, height)
    return figure, figure.subplots(1, n, squeeze=False)[0]


def png(figure: Any) -> bytes:
    """Returns the figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
