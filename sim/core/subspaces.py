"""Grids of bins over a few named numbers: what of a torso, of joints, of contacts was visited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from policy_server.contract.field import Field
from sim.core.coverage import BinCoverage


def grid_coverage(fields: Sequence[Field], n_bins: Mapping[str, int]) -> BinCoverage:
    """Returns a counter of the bins of a grid; its share is that of all bins of the grid.

    Bins are equally wide between a number's limits. What lies outside counts as the nearest bin. No
    body reaches all bins, so a share compares runs of one task and says nothing by itself.

    Args:
        fields: Fields of what is visited: a task's `explored`, or its obs where there is none.
        n_bins: Bins of each number, by the name of a field of one number or by an entry's name.

    Raises:
        ValueError: There is no such number, or it has no finite limits.
    """
    bins = Bins(fields, n_bins)
    return BinCoverage(bins, bins.total, bins.total)


def pattern_coverage(
    fields: Sequence[Field], name: str, n_bins: Mapping[str, int] | None = None
) -> BinCoverage:
    """Returns a counter of distinct patterns of flags, such as the limbs in contact.

    Its share is the number of patterns seen, not divided by anything.

    Args:
        fields: Fields of what is visited.
        name: The field of the flags; a flag counts where its number is above 0.
        n_bins: Numbers in whose bins the patterns are counted apart, as for `grid_coverage`.

    Raises:
        ValueError: There is no such field or number, or it has no finite limits.
    """
    found = [field for field in fields if field.name == name]
    if not found:
        raise ValueError(f"no field {name!r}; there are: {[field.name for field in fields]}")
    flags = slice(found[0].start, found[0].stop)
    bins = Bins(fields, n_bins or {})
    n_patterns = 2 ** len(found[0])

    def index(values: np.ndarray) -> np.ndarray:
        pattern = (values[:, flags] > 0) @ (1 << np.arange(len(found[0])))
        return bins(values) * n_patterns + pattern

    return BinCoverage(index, bins.total * n_patterns, 1)


def numbers(fields: Sequence[Field]) -> dict[str, tuple[int, float, float]]:
    """Returns (column, low, high) of each number, by its entry's name or its field's."""
    return {
        name: (field.start + i, field.low[i], field.high[i])
        for field in fields
        for i, name in enumerate([field.name] if len(field) == 1 else field.entries or ())
    }


class Bins:
    """Bins of a grid over named numbers; without any number, one bin.

    Args:
        fields: Fields of what is visited.
        n_bins: Bins of each number, by its name.

    Attributes:
        total: Number of bins.

    Raises:
        ValueError: There is no such number, or it has no finite limits.
    """

    def __init__(self, fields: Sequence[Field], n_bins: Mapping[str, int]) -> None:
        known = numbers(fields)
        if unknown := [name for name in n_bins if name not in known]:
            raise ValueError(f"no number {unknown}; there are: {', '.join(known)}")
        found = [known[name] for name in n_bins]
        self._columns = [column for column, _, _ in found]
        self._low = np.array([low for _, low, _ in found])
        self._high = np.array([high for _, _, high in found])
        self._n_bins = np.array(list(n_bins.values()), np.int64)
        self.total = int(self._n_bins.prod())
        if not np.isfinite(self._low - self._high).all() or (self._low >= self._high).any():
            raise ValueError(f"bins want finite limits; {', '.join(n_bins)} have {found}")

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Returns the bin (n,) of each row of values (n, k)."""
        place = (values[:, self._columns] - self._low) / (self._high - self._low)
        index = np.clip(place * self._n_bins, 0, self._n_bins - 1).astype(np.int64)
        strides = self.total // np.cumprod(self._n_bins)
        return index @ strides
