"""Reads demonstrations from a file, and says which rows cannot be used."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

import numpy as np

from sim.core.spec import TaskSpec

ROUNDING = 1e-5  # actions this far outside [-1, 1] are float32's rounding, and are clipped
MOST = 5  # rows that a message names


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the arrays obs and action of an .npz file, float64.

    Raises:
        ValueError: It is no whole .npz file, lacks an array, or holds other things than numbers.
        FileNotFoundError: There is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ("obs", "action")}
            there = sorted(file.files)
    except (zipfile.BadZipFile, zlib.error, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no whole .npz file: {error}; write it by np.savez") from error
    except ValueError as error:  # its text advises to load pickles
        raise ValueError(
            f"{path} holds objects, or is no whole .npz file; give arrays of numbers, written by "
            "np.savez"
        ) from error
    if missing := {"obs", "action"} - arrays.keys():
        raise ValueError(f"{path} lacks {sorted(missing)}; it holds {there}")
    return _numbers(path, "obs", arrays["obs"]), _numbers(path, "action", arrays["action"])


def checked(obs: np.ndarray, action: np.ndarray, spec: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """Returns obs (n, obs_dim) and actions (n, act_dim) in [-1, 1], float32.

    What lies outside [-1, 1] by rounding is clipped.

    Args:
        obs: The observations.
        action: The actions.
        spec: The task.

    Raises:
        ValueError: The shapes do not fit the task, or rows are not finite or outside [-1, 1]. The
            message names the rows.
    """
    n = len(obs) if obs.ndim else 0
    expected = ((n, spec.obs_dim), (n, spec.act_dim))
    if (obs.shape, action.shape) != expected or not n:
        raise ValueError(
            f"obs {obs.shape}, action {action.shape}: {spec.name} wants obs (n, {spec.obs_dim}) "
            f"and action (n, {spec.act_dim}), with one row or more"
        )
    largest = float(np.finfo(np.float32).max)
    _refuse(obs, ~(np.abs(obs) <= largest), "obs must be finite (in float32)")
    outside = ~(np.abs(action) <= 1 + ROUNDING)
    _refuse(action, outside, "actions must lie in [-1, 1]; map commands by the task's action map")
    return obs.astype(np.float32), np.clip(action, -1, 1).astype(np.float32)


def _refuse(values: np.ndarray, wrong: np.ndarray, problem: str) -> None:
    """Raises ValueError with the first rows in which a number is wrong."""
    rows = np.flatnonzero(wrong.any(1))
    if len(rows):
        named = [f"row {row} has {values[row][wrong[row]][0]:g}" for row in rows[:MOST]]
        raise ValueError(
            f"{problem}; wrong in {len(rows)} of {len(values)} rows: {', '.join(named)}"
        )


def _numbers(path: str, name: str, array: Any) -> np.ndarray:
    """Returns an array of real numbers or truth values as float64."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: {name} is {array.dtype}; expected real numbers")
    return array.astype(np.float64)
