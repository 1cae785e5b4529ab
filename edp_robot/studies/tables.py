"""Tables of the studies: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95  # of every interval


def mean_std(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Returns (mean, sample standard deviation), None for the latter of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns (mean, half width of its 95 % interval by Student's t) of values (n,), n >= 2."""
    from scipy import stats

    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(values.mean()), float(quantile * stats.sem(values))


def cell(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """Returns `mean +- std (n)`, without std where n is 1."""
    mean, std = mean_std(values)
    spread = "" if std is None else f" +- {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread} ({len(values)})"


def bold(text: str, yes: bool) -> str:
    """Returns the text, bold in Markdown if `yes`."""
    return f"**{text}**" if yes else text


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
