"""`edp plugins`: lists the parts that users can add to, and those that exist."""

from __future__ import annotations

import functools
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from edp_robot.cli.machine import import_problem

WIDTH = 92
INDENT = "    "


class Door(NamedTuple):
    """A kind of part that users can add.

    Attributes:
        title: What such parts are called.
        use: How a command names a part and its settings.
        registry: Where the registry is, module:name.
        has_config: Whether a part's settings are its `Config` dataclass, not its parameters.
    """

    title: str
    use: str
    registry: str
    has_config: bool = False


DOORS = (
    Door(
        "Intrinsic rewards",
        "edp pretrain --method NAME --set reward.FIELD=VALUE",
        "edp_robot.methods.explore.intrinsic_reward:INTRINSIC_REWARDS",
        has_config=True,
    ),
    Door(
        "Fine-tuners",
        "edp finetune --method NAME --set tuner.FIELD=VALUE",
        "edp_robot.methods.finetune.fine_tuner:FINE_TUNERS",
        has_config=True,
    ),
    Door("Tasks", "--task NAME?FIELD=VALUE", "sim.core.registry:TASKS"),
    Door("Robots", "--robot NAME:REST?FIELD=VALUE", "policy_server.control.robot:ROBOTS"),
    Door("Inference backends", "--backend NAME", "policy_server.runtime.base:BACKENDS"),
)


def plugins() -> int:
    """List the methods, tasks, robots and backends that exist, with their settings.

    Each is one file. Your own needs no registration: give it as package.module:Class. The module
    may be in the current folder.
    Example: edp plugins
    """
    for door in DOORS:
        print(f"{door.title}: {door.use}")
        for line in _parts(door):
            print(f"  {line}")
        print()
    print("Instead of NAME, give package.module:Class for your own; docs/your_*.md show how.")
    return 0


def _parts(door: Door) -> Iterator[str]:
    """Yields a line for each part, with its module, and lines with its settings and defaults."""
    module, _, name = door.registry.partition(":")
    try:
        registry = getattr(importlib.import_module(module), name)
        names = registry.names()
    except ImportError as error:
        yield import_problem(error)
        return
    for part_name in names:
        try:
            part = registry.get(part_name)
        except (ImportError, SyntaxError) as error:
            yield f"{part_name:<22} {import_problem(error)}"
            continue
        maker = part.func if isinstance(part, functools.partial) else part
        yield f"{part_name:<22} {maker.__module__}"
        settings = _fields(part.Config()) if door.has_config else _options(part)
        yield from textwrap.wrap(
            " ".join(settings), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT
        )


def _options(part: Callable[..., Any]) -> Iterator[str]:
    """Yields the parameters of a part that have a default."""
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.default is not parameter.empty:
            yield f"{name}={parameter.default}"


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    """Yields the fields of a config dataclass, those of nested ones with dotted names."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}={value}"
