"""A field: a named part of an obs or action vector, with unit and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server.contract.checks import is_int, require
from policy_server.contract.errors import BundleError, printable

NO_RANGE = 1e6  # a range above this is none: Gymnasium writes the largest float32 for infinity
LEAST_SHARE = 1e-3  # of its field's largest value: no number without limits counts as smaller
ROUNDINGS = 2 * float(np.finfo(np.float32).eps)  # of a value: what float32 may round away
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
            len(values) == self.stop - self.start,
            f"field {self.name}: {key} has {len(values)} entries, "
            f"expected {self.stop - self.start}",
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


def scales(fields: Sequence[Field], values: np.ndarray) -> np.ndarray:
    """Returns how large a number of the vector is meant to be, (dim,) float64, all above 0.

    This is its range, high minus low. Where there is none, it is the largest of its `values`, and
    at least LEAST_SHARE of the largest in its field; where these are all 0, it is 1.

    Args:
        fields: Fields of the vector.
        values: Some of its values (..., dim).
    """
    low, high = limits(fields)
    span = high - low
    largest = np.abs(values).reshape(-1, len(span)).max(0).astype(np.float64)
    for field in fields:
        part = largest[field.start : field.stop]
        part[:] = np.maximum(part, LEAST_SHARE * part.max())
    largest[largest == 0] = 1
    return np.where((span > 0) & (span < NO_RANGE), span, largest)


def tolerances(fields: Sequence[Field], values: np.ndarray, share: float) -> np.ndarray:
    """Returns by how much two computations of the vector may differ, (dim,) float64.

    This is a share of each number's `scales`, and what float32 rounds away on top: 1000 +- 0.001 is
    known to 6e-5 only.

    Args:
        fields: Fields of the vector.
        values: Some of its values (..., dim).
        share: Share of the scale.
    """
    largest = np.abs(values).reshape(-1, fields[-1].stop).max(0).astype(np.float64)
    return share * scales(fields, values) + ROUNDINGS * largest


def difference(fields: Sequence[Field], errors: np.ndarray, allowed: np.ndarray) -> str:
    """Returns in words the number whose error is the largest for what is allowed.

    Args:
        fields: Fields of the vector.
        errors: Error of each number (dim,).
        allowed: Allowed error of each (dim,).
    """
    worst = int(np.argmax(errors / np.maximum(allowed, np.finfo(np.float64).tiny)))
    field = next(field for field in fields if field.start <= worst < field.stop)
    names = field.entry_names()
    place = worst - field.start
    name = names[place] if names else f"{field.name}[{place}]"
    amount = f"{errors[worst]:.3g} {printable(field.unit)}"
    return f"{printable(name)} by {amount}, allowed is {allowed[worst]:.3g}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _to_null(values: tuple[float, ...]) -> list[float | None]:
    return [None if math.isinf(value) else value for value in values]


def _from_null(values: list[float | None], infinite: float) -> tuple[Any, ...]:
    return tuple(infinite if value is None else value for value in values)
