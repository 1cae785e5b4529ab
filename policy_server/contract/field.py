"""A field: a named part of an obs or action vector, with unit and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server.contract.checks import is_int, require
from policy_server.contract.errors import BundleError

_KEYS = {"name", "start", "stop", "unit", "low", "high", "max_rate"}


@dataclass(frozen=True)
class Field:
    """The numbers [start, stop) of an obs or action vector.

    Attributes:
        name: Name of the field, like "joint_pos".
        start: First index.
        stop: One past the last index.
        unit: Physical unit, like "rad"; "1" for a number without a unit.
        low: Smallest value of each number [unit]; -inf where unbounded.
        high: Largest value of each number [unit]; +inf where unbounded.
        max_rate: Fastest allowed change of each number [unit/s]; inf where unlimited. None: no
            limits.
        entries: Name of each number, as the robot calls its feature, like "shoulder_pan.pos". None:
            unknown.

    Raises:
        BundleError: The slice is empty, a limit or `entries` has another length than the slice, a
            low is above its high, a rate is not above 0, or two entries have the same name.
    """

    name: str
    start: int
    stop: int
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_rate: tuple[float, ...] | None = None
    entries: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Checks every attribute and turns the limits into tuples of plain floats."""
        require(_is_text(self.name), f"field name {self.name!r}: expected a text")
        require(
            isinstance(self.unit, str), f"field {self.name}: unit {self.unit!r}: expected a text"
        )
        require(
            is_int(self.start) and is_int(self.stop) and 0 <= self.start < self.stop,
            f"field {self.name}: slice [{self.start}, {self.stop}): "
            "expected whole numbers, 0 <= start < stop",
        )
        for key in ("low", "high") if self.max_rate is None else ("low", "high", "max_rate"):
            object.__setattr__(self, key, self._limit(key, getattr(self, key)))
        require(
            all(low <= high for low, high in zip(self.low, self.high, strict=True)),
            f"field {self.name}: low {self.low} above high {self.high}",
        )
        require(
            self.max_rate is None or min(self.max_rate) > 0,
            f"field {self.name}: max_rate {self.max_rate}: "
            "expected rates above 0, or null for no limit",
        )
        if self.entries is not None:
            object.__setattr__(self, "entries", self._checked_entries())

    def __len__(self) -> int:
        """Returns how many numbers the field has."""
        return self.stop - self.start

    def entry_names(self) -> tuple[str, ...] | None:
        """Returns the name of each number, or None where they are unknown.

        A field of one number without `entries` gives that number its own name.
        """
        if self.entries is None and len(self) == 1:
            return (self.name,)
        return self.entries

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-ready values. An infinite limit becomes null; unknown entries get no key."""
        values = {
            "name": self.name,
            "start": self.start,
            "stop": self.stop,
            "unit": self.unit,
            "low": _to_null(self.low),
            "high": _to_null(self.high),
            "max_rate": None if self.max_rate is None else _to_null(self.max_rate),
        }
        return values if self.entries is None else {**values, "entries": list(self.entries)}

    @classmethod
    def from_dict(cls, raw: Any) -> Field:
        """Returns the field that `to_dict` wrote. `entries` may be missing: older bundles lack it.

        Raises:
            BundleError: Keys or types differ from what `to_dict` writes.
        """
        require(
            isinstance(raw, dict) and _KEYS <= set(raw) <= {*_KEYS, "entries"},
            f"field {raw!r}: expected keys {sorted(_KEYS)}, and entries if known",
        )
        for key in ("low", "high", "max_rate", "entries"):
            listed = isinstance(raw.get(key, []), list) or (key == "max_rate" and raw[key] is None)
            require(listed, f"field {raw['name']}: {key} {raw.get(key)!r}: expected a list")
        rate = raw["max_rate"]
        limits = {
            "low": _from_null(raw["low"], -math.inf),
            "high": _from_null(raw["high"], math.inf),
            "max_rate": None if rate is None else _from_null(rate, math.inf),
        }
        return cls(**{**raw, **limits})

    def _limit(self, key: str, given: Any) -> tuple[float, ...]:
        """Returns the limit `key` as a tuple of plain floats, one for each number."""
        try:
            values = tuple(float(value) for value in given)
        except (TypeError, ValueError, OverflowError) as error:
            raise BundleError(f"field {self.name}: {key} {given!r}: expected numbers") from error
        require(
            len(values) == len(self),
            f"field {self.name}: {key} has {len(values)} entries, expected {len(self)}",
        )
        require(not any(map(math.isnan, values)), f"field {self.name}: {key} holds NaN")
        return values

    def _checked_entries(self) -> tuple[str, ...]:
        """Returns `entries` as a tuple of as many different texts as the field has numbers."""
        given = self.entries
        fits = (
            isinstance(given, (tuple, list))
            and len(given) == len(self)
            and all(map(_is_text, given))
            and len(set(given)) == len(given)
        )
        require(
            fits,
            f"field {self.name}: entries {given!r}: "
            f"expected {len(self)} different names, one for each number",
        )
        return tuple(given or ())


def limits(fields: Sequence[Field]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (low, high) of the vector that `fields` make up, each (dim,) float64."""
    low = np.array([value for field in fields for value in field.low])
    high = np.array([value for field in fields for value in field.high])
    return low, high


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _to_null(values: tuple[float, ...]) -> list[float | None]:
    return [None if math.isinf(value) else value for value in values]


def _from_null(values: list[float | None], infinite: float) -> tuple[Any, ...]:
    return tuple(infinite if value is None else value for value in values)
