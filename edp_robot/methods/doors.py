"""Resolves the name of a method to its class and the class to its config dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from policy_server.contract.doors.registries import Registry, UnknownName

P = TypeVar("P")


@dataclass(frozen=True)
class NoConfig:
    """The config of a part without settings."""


def part_class(registry: Registry[Any], name: str, base: type[P]) -> type[P]:
    """Returns the class that `name` stands for.

    Args:
        registry: The door.
        name: A registered name, or `package.module:attribute`.
        base: The class that it has to extend.

    Raises:
        UnknownName: There is no such part. The message lists those that exist.
        ValueError: `name` is something else than a subclass of `base`.
    """
    part = registry.get(name)
    if not isinstance(part, type) or not issubclass(part, base):
        raise ValueError(
            f"{registry.kind} {name!r} is {part!r}; expected a class that extends "
            f"{base.__module__}.{base.__qualname__}"
        )
    return part


def check_config(field: str, config: Any, name: str, part: Any) -> None:
    """Checks that a part gets the config dataclass of its own class.

    Args:
        field: Name of the field that holds it, for the message.
        config: The config.
        name: The part's name.
        part: The part's class.

    Raises:
        ValueError: It is the config of another part.
    """
    if not isinstance(config, part.Config):
        raise ValueError(
            f"{field} is a {type(config).__name__}, but method {name!r} wants a "
            f"{part.Config.__name__}; --method brings both, in Python give both"
        )


def stored_config_class(registry: Registry[Any], name: str, otherwise: type) -> type:
    """Returns the config dataclass of a part that a run folder names, without importing new code.

    Args:
        registry: The door.
        name: The name in the run's config.json, which others may have written.
        otherwise: The class to read the config of a `package.module:attribute` as.

    Raises:
        UnknownName: A plain name that is not registered. The message lists those that are.
    """
    try:
        return registry.get(name, may_import=False).Config
    except UnknownName:
        if ":" in name:
            return otherwise
        raise
