"""Changes to a configuration from the command line: `--set ddpg.discount=0.95 reward.n_draws=8`.

The names and values are those of the run's config.json. tyro could declare them as options, but not
before the preset and the method have decided which dataclass `reward` or `tuner` is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

C = TypeVar("C")
# Where groups of older versions are today. A name that the config has itself is never replaced.
RENAMED = {
    "score_reward": "reward",
    "state_model": "reward.model",
    "rnd": "reward",
    "particle": "reward",
    "improve": "tuner",
    "iql": "tuner.iql",
    "ddpg": "tuner",
    "action_model": "tuner.action_model",
    "acting_denoise_steps": "tuner.acting_denoise_steps",
    "anneal_from": "tuner.anneal_from",
    "batch": "tuner.batch",
}


def changed(config: C, settings: Iterable[str]) -> C:
    """Returns a (nested, frozen) dataclass with the fields `a.b=value` set.

    Values are JSON, or words without quotes.

    Raises:
        ValueError: There is no such field, the value has another type, or it is none of the values
            that the field allows. The message lists what exists.
    """
    tree: dict[str, Any] = {}
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"setting {text!r}: expected NAME=VALUE, e.g. ddpg.discount=0.95")
        *groups, name = _today(config, path).split(".")
        inside = config
        branch = tree
        for group in groups:
            inside = _field(inside, group, path)
            branch = branch.setdefault(group, {})
        branch[name] = _new_value(inside, name, value, path)
    return _replaced(config, tree)


def _replaced(config: Any, tree: dict[str, Any]) -> Any:
    """Returns the dataclass with the tree's fields set at once, so that it checks them together."""
    changes = {
        name: _replaced(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in tree.items()
    }
    return replace(config, **changes)


def _today(config: Any, path: str) -> str:
    """Returns the path that a path of an older version stands for."""
    head, dot, rest = path.partition(".")
    known = {field.name for field in fields(config)}
    new = RENAMED.get(head)
    if head in known or new is None or new.split(".")[0] not in known:
        return path
    return f"{new}{dot}{rest}"


def _field(config: Any, name: str, path: str) -> Any:
    """Returns the value of a field; `path` is the whole setting's name."""
    known = [field.name for field in fields(config)] if _is_group(config) else []
    if name not in known:
        there_are = ", ".join(known) or "none below it"
        raise ValueError(f"no setting {path!r}: there is no {name!r}; there are: {there_are}")
    return getattr(config, name)


def _new_value(config: Any, name: str, text: str, path: str) -> Any:
    """Returns what `text` sets the field `name` to."""
    old = _field(config, name, path)
    if _is_group(old):
        inside = ", ".join(field.name for field in fields(old))
        raise ValueError(f"setting {path!r} is a group; name one of {inside} in it")
    new = _value(old, text, path)
    allowed = _allowed(config, name)
    if allowed and new not in allowed:
        there_are = ", ".join(map(str, allowed))
        raise ValueError(f"setting {path}={text}: there is no {new!r}; there are: {there_are}")
    return new


def _allowed(config: Any, field: str) -> tuple[Any, ...]:
    """Returns the values that a field allows if it is a Literal, else nothing."""
    hint = get_type_hints(type(config))[field]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _is_group(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _value(old: Any, text: str, name: str) -> Any:
    """Returns `text` as a value of the type of `old`.

    Whole numbers pass for floats and lists for tuples.
    """
    try:
        new = json.loads(text)
    except json.JSONDecodeError:
        new = text
    if isinstance(old, float) and type(new) is int:
        new = float(new)
    if isinstance(old, tuple) and isinstance(new, list):
        new = tuple(new)
    if type(new) is not type(old):
        expected = f"expected {type(old).__name__}, as {json.dumps(old)}"
        raise ValueError(f"setting {name}={text}: {expected}")
    return new
