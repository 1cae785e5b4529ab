"""Gymnasium's spaces as one vector: which parts they have, in which order, and how each is written.

A Dict's parts come in the order observation, desired_goal, achieved_goal, then the others by name,
a Tuple's in their own order; spaces inside spaces are treated alike. A Box is raveled in C order. A
Discrete is one-hot, a MultiDiscrete a one-hot after another, a MultiBinary a row of 0 and 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatdim, flatten, flatten_space

GOAL_ORDER = ("observation", "desired_goal", "achieved_goal")
MAX_CATEGORIES = 100_000  # numbers in the one-hot form of one part
UNLIMITED = 1e9  # a limit this far away is none: it would make every small command zero

Path = tuple[Any, ...]


def leaves(space: Space) -> list[tuple[Path, Space]]:
    """Returns the parts of a space that hold no others, with the keys that lead to each."""
    if isinstance(space, Dict):
        first = [key for key in GOAL_ORDER if key in space.spaces]
        others = sorted((key for key in space.spaces if key not in GOAL_ORDER), key=str)
        inside = [(key, space.spaces[key]) for key in (*first, *others)]
    elif isinstance(space, Tuple):
        inside = list(enumerate(space.spaces))
    else:
        return [((), space)]
    return [((key, *path), leaf) for key, part in inside for path, leaf in leaves(part)]


def part_name(path: Path, default: str) -> str:
    """Returns the name of a part: its keys with a slash between, or `default` where it has none."""
    return "/".join(map(str, path)) or default


def obs_leaves(space: Space) -> list[tuple[Path, Space]]:
    """Returns the parts of an observation space.

    Raises:
        ValueError: A part has no fixed length, or is a Discrete of very many values.
    """
    found = leaves(space)
    for path, leaf in found:
        what = f"{part_name(('observation', *path), '')} space is {leaf}"
        if not isinstance(leaf, (Box, Discrete, MultiDiscrete, MultiBinary)):
            raise ValueError(
                f"{what}; only Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of "
                "them, are vectors of a fixed length; wrap the environment"
            )
        if not isinstance(leaf, Box) and flatdim(leaf) > MAX_CATEGORIES:
            raise ValueError(
                f"{what}: one-hot it has {flatdim(leaf)} numbers, and at most {MAX_CATEGORIES} "
                "are taken; wrap the environment"
            )
    _check_length("observation", space, found)
    return found


def action_leaves(space: Space) -> list[tuple[Path, Box]]:
    """Returns the parts of an action space.

    Raises:
        ValueError: A part is no Box, or lacks real limits.
    """
    found = leaves(space)
    boxes = [(path, leaf) for path, leaf in found if isinstance(leaf, Box)]
    for path, leaf in found:
        what = f"{part_name(('action', *path), '')} space is {leaf}"
        if isinstance(leaf, (Discrete, MultiDiscrete, MultiBinary)):
            raise ValueError(
                f"{what}: its actions are categories, and a diffusion of actions is continuous; "
                "use an environment (or a constructor argument, gym:ID?continuous=true) with Box "
                "actions"
            )
        if not isinstance(leaf, Box):
            raise ValueError(f"{what}; only a Box, and Dict and Tuple of them, can be driven")
        low, high = (limit.astype(np.float64) for limit in (leaf.low, leaf.high))
        if not leaf.is_bounded() or (np.abs([low, high]) > UNLIMITED).any():
            raise ValueError(
                f"{what}; only a Box with finite low and high (at most {UNLIMITED:g}) can be "
                "driven: [-1, 1] is spread over them; wrap the environment with limits"
            )
        if (low >= high).any():
            raise ValueError(f"{what}: low must be below high in every number")
    _check_length("action", space, found)
    return boxes


def limits(leaf: Space) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest numbers of a part as a vector, each (n,) float64."""
    flat = flatten_space(leaf)
    assert isinstance(flat, Box)
    return flat.low.ravel().astype(np.float64), flat.high.ravel().astype(np.float64)


def as_vector(parts: list[tuple[Path, Space]], value: Any) -> np.ndarray:
    """Returns a value of a space with these parts as one float32 vector."""
    out = []
    for path, leaf in parts:
        part = value
        for key in path:
            part = part[key]
        out.append(np.ravel(part) if isinstance(leaf, Box) else flatten(leaf, part))
    return np.concatenate(out).astype(np.float32)


def as_value(space: Space, parts: list[tuple[Path, Box]], vector: np.ndarray) -> Any:
    """Returns the value of an action space that a vector (act_dim,) stands for.

    Numbers are clipped to their limits. Those of an integer Box are rounded to the nearest.

    Args:
        space: The action space.
        parts: Its parts, as `action_leaves` returns them.
        vector: One number for each number of each part.
    """
    ends = np.cumsum([leaf.low.size for _, leaf in parts])[:-1]
    pieces = np.split(np.asarray(vector, np.float64), ends)
    made = {path: _own(leaf, piece) for (path, leaf), piece in zip(parts, pieces, strict=True)}
    return _nested(space, (), made)


def _own(box: Box, numbers: np.ndarray) -> np.ndarray:
    """Returns numbers as a value of the box, inside its limits, in its shape and type."""
    numbers = np.clip(numbers, box.low.ravel(), box.high.ravel())
    if np.issubdtype(box.dtype, np.integer) or box.dtype == np.bool_:
        numbers = np.rint(numbers)
    return numbers.reshape(box.shape).astype(box.dtype)


def _nested(space: Space, path: Path, made: dict[Path, np.ndarray]) -> Any:
    """Returns the value of the part `path` of a space, made of the values of its leaves."""
    if isinstance(space, Dict):
        return {key: _nested(inner, (*path, key), made) for key, inner in space.spaces.items()}
    if isinstance(space, Tuple):
        inner = enumerate(space.spaces)
        return tuple(_nested(part, (*path, i), made) for i, part in inner)
    return made[path]


def _check_length(what: str, space: Space, parts: list[tuple[Path, Space]]) -> None:
    """Raises ValueError where a space, or one of its parts, holds no number."""
    if not parts or any(flatdim(leaf) == 0 for _, leaf in parts):
        raise ValueError(f"{what} space is {space}: it (or a part of it) holds no number")
