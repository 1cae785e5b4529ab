"""The process's shared generators, `random` and `numpy.random`, which foreign environments use.

Our own code has generators of its own and never uses these.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


def seed_globals(seed: int) -> None:
    """Seeds `random` and `numpy.random`."""
    random.seed(seed)
    np.random.seed(np.random.SeedSequence(seed).generate_state(8))  # noqa: NPY002


def globals_state() -> dict[str, Any]:
    """Returns the state of both generators, as arrays and JSON values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": {"version": version, "words": np.array(words, np.int64), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": np.array(keys, np.int64),
            "rest": [int(position), int(has_gauss), float(cached)],
        },
    }


def set_globals_state(saved: dict[str, Any]) -> None:
    """Restores what `globals_state` returned; its arrays may be tensors by now."""
    python = saved["python"]
    words = tuple(int(word) for word in python["words"])
    random.setstate((python["version"], words, python["gauss"]))
    position, has_gauss, cached = saved["numpy"]["rest"]
    keys = np.array([int(key) for key in saved["numpy"]["keys"]], np.uint32)
    np.random.set_state((saved["numpy"]["name"], keys, position, has_gauss, cached))  # noqa: NPY002


@contextlib.contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seeds both generators for the block, and restores them, so that nothing outside changes."""
    before = globals_state()
    seed_globals(seed)
    try:
        yield
    finally:
        set_globals_state(before)
