"""Refuses numbers of an environment that are not finite, at the step that brought them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from policy_server.contract.field import Field

LARGEST = float(np.finfo(np.float32).max)  # policies and replays hold float32


class NotFinite(ArithmeticError):
    """An environment gave NaN, infinity, or more than float32 holds."""


def is_finite(values: np.ndarray) -> np.ndarray:
    """Returns bool of the values' shape: neither NaN nor infinity, in float32 either."""
    return np.abs(values) <= LARGEST


def require_finite(
    values: np.ndarray, what: str, place: Callable[[int], str], fields: Sequence[Field] = ()
) -> None:
    """Raises NotFinite where a number of `values` is not finite.

    Args:
        values: Numbers of n copies, (n,) or (n, obs_dim).
        what: What they are, such as "reward".
        place: Returns a row's task, copy and step in words.
        fields: The obs fields, where `values` are observations.

    Raises:
        NotFinite: It says what came, from which copy and when.
    """
    good = is_finite(values)
    if good.all():
        return
    row, *column = (int(index[0]) for index in np.nonzero(~good))
    raise NotFinite(
        f"{place(row)}: {what}{_entry(fields, *column)} is {values[(row, *column)]}, "
        "expected a finite number; nothing of this step was kept; mend the environment, or "
        "replace such numbers in it"
    )


def _entry(fields: Sequence[Field], column: int | None = None) -> str:
    """Returns the name of an obs entry, like " 'velocity'[2]"."""
    for field in fields:
        if column is not None and field.start <= column < field.stop:
            return f" {field.name!r}[{column - field.start}]"
    return ""
