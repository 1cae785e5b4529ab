"""Finds what users can add: by a registered name, or as `package.module:attribute`.

There is one registry for each kind of part: intrinsic rewards, fine-tuners, tasks, robots,
inference backends. A part is one file. A decorator registers it, and no other file has to name it:

    @INTRINSIC_REWARDS.register("curiosity")
    class Curiosity(IntrinsicReward): ...

A registry finds a part if the part's module is in the registry's own package, if an installed
distribution names it as an entry point, or if the caller gives `package.module:attribute`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Part = TypeVar("Part")
PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class UnknownName(ValueError):
    """No part has this name. The message lists the names that exist."""


class Registry(Generic[T]):
    """The parts of one kind, by name.

    Args:
        kind: What a part is called in messages, like "intrinsic reward".
        package: Package whose modules register parts when imported. None: there is no such package.
        group: Entry point group of installed distributions, like "edp_robot.robots", or None.
        base: Class that a part given as `package.module:attribute` extends, or a Protocol of
            methods. It is checked before the part is called. None: any attribute.
    """

    def __init__(
        self,
        kind: str,
        *,
        package: str | None = None,
        group: str | None = None,
        base: type | None = None,
    ) -> None:
        self.kind = kind
        self._base = base
        self._package = package
        self._group = group
        self._parts: dict[str, Any] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[Part], Part]:
        """Returns a decorator that registers its class or function as `name`.

        Raises:
            ValueError: The decorator is applied and another part has this name already.
        """

        def decorate(part: Part) -> Part:
            if not _same(self._parts.get(name, part), part):
                raise ValueError(f"two {self.kind}s are called {name!r}; rename one of them")
            self._parts[name] = part
            return part

        return decorate

    def names(self) -> tuple[str, ...]:
        """Returns the registered names in alphabetical order, entry points included."""
        self._scan()
        return tuple(sorted({*self._parts, *self._entry_points()}))

    def get(self, name: str, *, may_import: bool = True) -> T:
        """Returns the part that `name` stands for.

        Args:
            name: A registered name, or `package.module:attribute`. The module may be in the current
                folder.
            may_import: Whether `package.module:attribute` is allowed. Pass False for a name that
                comes from a file that others may have written, like a bundle's manifest.

        Raises:
            UnknownName: There is no such name. The message lists those that exist.
            ImportError: `package.module:attribute` cannot be imported.
            ValueError: It is no class of the kind.
        """
        if name not in self._parts:
            self._scan()
        if name in self._parts:
            return self._parts[name]
        entries = self._entry_points()
        if name in entries:
            return entries[name].load()
        if may_import and PATH.fullmatch(name):
            return self._checked(name, self._imported(name))
        if PATH.fullmatch(name):
            raise UnknownName(
                f"no {self.kind} {name!r} is registered, and a name out of a file is not imported: "
                f"give it on the command line. There are: {self._there_are()}"
            )
        raise UnknownName(self._unknown(name))

    def _imported(self, name: str) -> Any:
        """Returns the attribute at the path `name`. Raises UnknownName without its module."""
        try:
            return import_attribute(name)
        except ModuleNotFoundError as error:
            module = name.partition(":")[0]
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and needs another one
            raise UnknownName(
                f"no {self.kind} {name!r}: No module named {error.name!r} in {os.getcwd()}, "
                f"and none is installed. There are: {self._there_are()}"
            ) from None

    def _checked(self, name: str, part: Any) -> Any:
        """Returns an imported part. Raises ValueError where it is no class of the kind."""
        if self._base is None or (isinstance(part, type) and issubclass(part, self._base)):
            return part
        raise ValueError(
            f"{self.kind} {name!r} is {part!r}; expected a class like {self._base.__qualname__} "
            f"of {self._base.__module__}"
        )

    def _scan(self) -> None:
        """Imports every module of the package once, so that each can register its parts."""
        if self._package is None or self._scanned:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)
        self._scanned = True

    def _entry_points(self) -> dict[str, Any]:
        return {} if self._group is None else {e.name: e for e in entry_points(group=self._group)}

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.names(), 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return (
            f"no {self.kind} {name!r}.{hint} There are: {self._there_are()}; "
            "or give your own as package.module:attribute"
        )

    def _there_are(self) -> str:
        return ", ".join(self.names()) or "none"


def import_attribute(path: str) -> Any:
    """Returns what `package.module:attribute` names. The current folder is searched last.

    Raises:
        ImportError: There is no such module, it fails to import, or it lacks the attribute.
    """
    module_name, _, attribute = path.partition(":")
    module = import_here(module_name)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ImportError(f"{module.__file__} has no {attribute!r}; it has: {', '.join(public)}")
    return getattr(module, attribute)


def import_here(module: str) -> ModuleType:
    """Returns the module of this name. The current folder is searched last.

    Raises:
        ImportError: There is no such module, or it fails to import.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(module)


def _same(one: Any, other: Any) -> bool:
    """Returns whether two parts come from the same line of code, imported twice."""
    if one is other:
        return True
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
