"""What a run folder's config and the one that is asked for have to do with each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

ABSENT = "nothing"


def differences(config: Any, held: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Returns what is asked otherwise than a run was started with, as `name=value there, ...`.

    A setting that is younger than the run counts as its default.

    Args:
        config: The config dataclass that is asked for.
        held: The config that the run folder holds, in today's layout.
        asked: `config` as JSON values.
    """
    before = flat(with_defaults(config, held))
    now = flat(asked)
    names = [*now, *(name for name in before if name not in now)]
    return [
        f"{name}={before.get(name, ABSENT)} there, {now.get(name, ABSENT)} asked"
        for name in names
        if before.get(name, ABSENT) != now.get(name, ABSENT)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by their path, like `loop.n_envs`."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        out |= flat(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return out


def with_defaults(config: Any, held: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config that an older version wrote, with those that it lacks."""
    full = dict(held)
    for field in fields(config):
        value = getattr(config, field.name)
        inside = held.get(field.name)
        if is_dataclass(value) and isinstance(inside, Mapping):
            full[field.name] = with_defaults(value, inside)
        elif field.name not in held and field.default is not MISSING:
            default = field.default
            full[field.name] = list(default) if isinstance(default, tuple) else default
    return full


def at(values: Any, path: str) -> Any:
    """Returns the value at a path like `loop.env_steps` of nested JSON values.

    Raises:
        KeyError: There is none.
    """
    for name in path.split("."):
        if not isinstance(values, Mapping):
            raise KeyError(path)
        values = values[name]
    return values


def changed_at(config: Any, path: str, value: Any) -> Any:
    """Returns a (nested) dataclass with another value at a path.

    Args:
        config: The dataclass.
        path: Names with a dot between, like `loop.env_steps`.
        value: The value.
    """
    name, dot, rest = path.partition(".")
    inside = changed_at(getattr(config, name), rest, value) if dot else value
    return replace(config, **{name: inside})
