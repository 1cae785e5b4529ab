"""Loads a package's public names when they are first used, so that its import is fast.

The package imports its names under `if TYPE_CHECKING:` and lists them in `__all__`. That block
tells type checkers, and this module, where each name is.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the functions `__getattr__` and `__dir__` of a package (PEP 562)."""
    module = sys.modules[package]

    def get(name: str) -> Any:
        if name not in module.__all__:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_homes(package)[name]), name)
        setattr(module, name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(module), *module.__all__})

    return get, names


@functools.cache
def _homes(package: str) -> dict[str, str]:
    """Returns the module of each name that the package imports under `if TYPE_CHECKING:`."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(sys.modules[package])).body
    blocks = [
        n.body for n in body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    ]
    imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
