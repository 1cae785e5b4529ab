"""Makes a part of a text: `NAME[:REST][?option=value&...]` or `package.module:attribute[?...]`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from policy_server.contract.doors.registries import Registry

_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "int": int,
    "bool": lambda text: _TRUTH[text.lower()],
    "str": str,
}


def make_part(registry: Registry[Callable[..., Any]], text: str, may_import: bool = True) -> Any:
    """Returns the part that `text` names, called with REST, where there is one, and the options.

    Args:
        registry: The parts of one kind.
        text: `NAME[:REST][?option=value&...]` for a registered name, or
            `package.module:attribute[?option=value&...]`.
        may_import: Whether `package.module:attribute` is allowed; see `Registry.get`.

    Raises:
        UnknownName: There is no such name. The message lists those that exist.
        ImportError: The module cannot be imported or lacks the attribute.
        ValueError: An option is unknown, or a value is not of its option's type.
    """
    path, _, query = text.partition("?")
    name, colon, rest = path.partition(":")
    if colon and name in registry.names():
        return call_with_options(registry.get(name), rest, query=query)
    return call_with_options(registry.get(path, may_import=may_import), query=query)


def call_with_options(factory: Callable[..., Any], *args: Any, query: str) -> Any:
    """Returns `factory(*args, **options)` with the options that `query` gives.

    Args:
        factory: A class or function. Its annotations (float, int, bool or str, each also with
            `| None`) convert the values.
        args: Arguments that come before the options.
        query: Text like "port=/dev/ttyUSB0&rate_hz=50". Empty: there are no options.

    Raises:
        ValueError: The query is no list of option=value, an option is unknown or given twice, one
            that the factory requires is missing, or a value is not of its option's type.
    """
    signature = inspect.signature(factory)
    parameters = dict(list(signature.parameters.items())[len(args) :])
    options: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals or name in options:
            raise ValueError(f"options {query!r}: expected option=value&..., each option once")
        options[name] = _convert(name, value, parameters)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        raise ValueError(f"options {query!r}: {error}; {_there_are(parameters)}") from None
    return factory(*args, **options)


def _convert(name: str, text: str, parameters: Mapping[str, inspect.Parameter]) -> Any:
    """Returns `text` as the type that the parameter `name` is annotated with."""
    if name not in parameters:
        raise ValueError(f"no option {name!r}; {_there_are(parameters)}")
    kind = _type_name(parameters[name])
    if kind not in _CONVERTERS:
        raise ValueError(f"option {name} is a {kind}: expected one of {', '.join(_CONVERTERS)}")
    try:
        return _CONVERTERS[kind](text)
    except (ValueError, KeyError):
        raise ValueError(f"option {name}={text!r}: expected {kind}") from None


def _type_name(parameter: inspect.Parameter) -> str:
    """Returns the annotation without its `| None`; "str" where there is no annotation."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return "str"
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.removesuffix(" | None")


def _there_are(parameters: Mapping[str, inspect.Parameter]) -> str:
    names = [f"{name} ({_type_name(parameter)})" for name, parameter in parameters.items()]
    return f"the options are {', '.join(names) or 'none'}"
