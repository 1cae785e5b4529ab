"""Changes to a configuration from the command line: `--set ddpg.discount=0.95 score_reward.estimator=iid`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

C = TypeVar("C")


def changed(config: C, settings: Iterable[str]) -> C:
    """Returns the (nested, frozen) dataclass with the fields `a.b=value` set; values are JSON, or bare words.

    Raises:
        ValueError: no such field, or none of the names that it allows (the message lists those that exist), or a value
            of another type.
    """
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"setting {text!r}: expected NAME=VALUE, e.g. ddpg.discount=0.95")
        config = _put(config, path.split("."), value, path)
    return config


def _put(config: Any, path: list[str], value: str, name: str) -> Any:
    """Returns `config` with the field at `path` set to what `value` says."""
    head, *rest = path
    known = [f.name for f in fields(config)] if _is_group(config) else []
    if head not in known:
        raise ValueError(
            f"no setting {name!r}: there is no {head!r}; there are: {', '.join(known) or 'none below it'}"
        )
    old = getattr(config, head)
    if rest:
        return replace(config, **{head: _put(old, rest, value, name)})
    if _is_group(old):
        raise ValueError(
            f"setting {name!r} is a group; name one of {', '.join(f.name for f in fields(old))} in it"
        )
    new, allowed = _value(old, value, name), _allowed(config, head)
    if allowed and new not in allowed:
        raise ValueError(
            f"setting {name}={value}: there is no {new!r}; there are: {', '.join(map(str, allowed))}"
        )
    return replace(config, **{head: new})


def _allowed(config: Any, field: str) -> tuple[Any, ...]:
    """Returns the values of a field that is one of a few (a Literal); empty for all others."""
    hint = get_type_hints(type(config))[field]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _is_group(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _value(old: Any, text: str, name: str) -> Any:
    """Returns `text` as a value of the type of `old`; whole numbers pass for floats, lists for tuples."""
    try:
        new = json.loads(text)
    except json.JSONDecodeError:
        new = text
    if isinstance(old, float) and type(new) is int:
        new = float(new)
    if isinstance(old, tuple) and isinstance(new, list):
        new = tuple(new)
    if type(new) is not type(old):
        raise ValueError(
            f"setting {name}={text}: expected {type(old).__name__}, as {json.dumps(old)}"
        )
    return new
