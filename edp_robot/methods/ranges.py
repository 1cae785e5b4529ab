"""Checks the numbers of a config dataclass: what a field may hold is said beside the field.

Without a word a whole number is at least 1, and any other number is above 0. Where a field may hold
others, its annotation says so: `n_features: Natural = 0`, `dropout: Annotated[float, Range(0, 1)]`.
No number may be NaN or infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; with `above` or `below`, without the end itself."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Returns whether `value` is finite and in the range."""
        low = self.low < value if self.above else self.low <= value
        high = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        """Returns what to give, in words."""
        if math.isinf(self.high):
            least = "must be above" if self.above else "must be at least"
            return "must be a finite number" if math.isinf(self.low) else f"{least} {self.low:g}"
        ends = "(" if self.above else "[", ")" if self.below else "]"
        return f"give a number in {ends[0]}{self.low:g}, {self.high}{ends[1]}"


COUNT = Range(1)
POSITIVE = Range(0, above=True)
SEEDS = Range(0, 2**63 - 1)
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, SEEDS]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 1, above=True)]  # of a running average


def check_range(name: str, value: float, allowed: Range = COUNT) -> None:
    """Checks one number.

    Args:
        name: Its name, for the message.
        value: The number.
        allowed: Where it has to lie.

    Raises:
        ValueError: It lies elsewhere, or is NaN or infinite.
    """
    if not allowed.holds(value):
        raise ValueError(f"{name}={value}: {allowed}")


class Ranged:
    """A dataclass whose numbers are checked when it is made; the module's text says for what."""

    def __post_init__(self) -> None:
        """Raises ValueError for the first number that its field does not allow."""
        allowed = _ranges(type(self))
        for name in allowed:
            for number in _numbers(vars(self)[name]):
                whole = isinstance(number, int)
                check_range(name, number, allowed[name] or (COUNT if whole else POSITIVE))


@cache
def _ranges(cls: Any) -> dict[str, Range | None]:
    """Returns the range that each field is annotated with, or None."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _range(hints[field.name]) for field in fields(cls)}


def _range(hint: Any) -> Range | None:
    """Returns the range in an annotation: its own, or that of a member like the X of `X | None`."""
    if isinstance(hint, Range):
        return hint
    return next((one for one in map(_range, get_args(hint)) if one is not None), None)


def _numbers(value: Any) -> Iterator[float]:
    """Yields the numbers in a field's value, those of a tuple too; True and False are none."""
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
