"""Makes a part of a text: `NAME[:REST][?option=value&...]` or `package.module:attribute[?...]`.

A part whose factory has named options only converts their values by its annotations. A factory with
`**options` takes any others too. Their values are JSON (`n=3`, `ranges=[0.2,1]`, `dry=true`), or
words without quotes; `%26` stands for & in a word, `%25` for %.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from policy_server.contract.doors.registries import Registry, UnknownName

_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "int": int,
    "bool": lambda text: _TRUTH[text.lower()],
    "str": str,
}
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_HARMLESS = re.compile(r"[\w+-]*")  # names no attribute of a module, and no file
Parameters = Mapping[str, inspect.Parameter]


def make_part(registry: Registry[Callable[..., Any]], text: str, may_import: bool = True) -> Any:
    """Returns the part that `text` names, called with REST, where there is one, and the options.

    Args:
        registry: The parts of one kind.
        text: `NAME[:REST][?option=value&...]` for a registered name, or
            `package.module:attribute[?option=value&...]`.
        may_import: Whether `package.module:attribute` is allowed; see `Registry.get`. False also
            refuses words as values that could name a module or a file elsewhere.

    Raises:
        UnknownName: There is no such name. The message lists those that exist.
        ImportError: The module cannot be imported or lacks the attribute.
        ValueError: An option is unknown, or a value is not of its option's type.
    """
    factory, rest, query = _found(registry, text, may_import)
    if not may_import:
        _check_harmless(text, options_of(factory, *rest, query=query))
    return call_with_options(factory, *rest, query=query)


def canonical_name(registry: Registry[Callable[..., Any]], text: str) -> str:
    """Returns `text` with its options in alphabetical order, each value written in one way only.

    Args and errors are those of `make_part`.
    """
    path, _, query = text.partition("?")
    if not query:
        return path
    factory, rest, _ = _found(registry, text, may_import=True)
    options = options_of(factory, *rest, query=query)
    known = _parameters(factory, len(rest))
    pairs = [f"{name}={_text(options[name], name in known)}" for name in sorted(options)]
    return f"{path}?{'&'.join(pairs)}"


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """Returns the text that names a part with these options, the inverse of `options_of`."""
    pairs = [f"{key}={_text(value, declared=False)}" for key, value in options.items()]
    return f"{name}?{'&'.join(pairs)}" if pairs else name


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
    options = options_of(factory, *args, query=query)
    try:
        inspect.signature(factory).bind(*args, **options)
    except TypeError as error:
        known = _parameters(factory, len(args))
        raise ValueError(f"options {query!r}: {error}; {_there_are(known)}") from None
    return factory(*args, **options)


def options_of(factory: Callable[..., Any], *args: Any, query: str) -> dict[str, Any]:
    """Returns the converted options. Args and errors are those of `call_with_options`."""
    known = _parameters(factory, len(args))
    kinds = [parameter.kind for parameter in inspect.signature(factory).parameters.values()]
    is_open = inspect.Parameter.VAR_KEYWORD in kinds
    options: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if not equals or name in options:
            raise ValueError(f"options {query!r}: expected option=value&..., each option once")
        if is_open and name.isidentifier() and name not in known:
            options[name] = _open_value(value)
        else:
            options[name] = _convert(name, value, known)
    return options


def _found(
    registry: Registry[Callable[..., Any]], text: str, may_import: bool
) -> tuple[Callable[..., Any], tuple[str, ...], str]:
    """Returns (factory, (REST,) or (), query) of `text`."""
    path, _, query = text.partition("?")
    name, colon, rest = path.partition(":")
    if colon and name in registry.names():
        return registry.get(name), (rest,), query
    return registry.get(path, may_import=may_import), (), query


def _parameters(factory: Callable[..., Any], n_given: int) -> Parameters:
    """Returns the named options of a factory: its parameters after the first `n_given`."""
    found = list(inspect.signature(factory).parameters.items())[n_given:]
    gathers = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: parameter for name, parameter in found if parameter.kind not in gathers}


def _convert(name: str, text: str, parameters: Parameters) -> Any:
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


def _open_value(text: str) -> Any:
    """Returns the value of an option without a declared type: JSON, else the word itself."""
    word = unquote(text)
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    try:
        return json.loads(word)
    except ValueError:
        return word


def _text(value: Any, declared: bool) -> str:
    """Returns the text that a value is read from; a declared type needs no quotes or escapes."""
    if isinstance(value, str) and declared:
        return value
    plain = isinstance(value, str) and _open_value(value) == value
    text = value if plain else json.dumps(value, separators=(",", ":"), sort_keys=True)
    return text if declared else text.replace("%", "%25").replace("&", "%26")


def _check_harmless(text: str, value: Any) -> None:
    """Raises UnknownName where an option's value, out of a file, could name code or a file."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for inner in value:
            _check_harmless(text, inner)
    elif isinstance(value, str) and not _HARMLESS.fullmatch(value):
        raise UnknownName(
            f"{text!r} is a name out of a file, and its value {value!r} could name code or another "
            "file; give the name on the command line"
        )


def _type_name(parameter: inspect.Parameter) -> str:
    """Returns the annotation without its `| None`; "str" where there is no annotation."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return "str"
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.removesuffix(" | None")


def _there_are(parameters: Parameters) -> str:
    names = [f"{name} ({_type_name(parameter)})" for name, parameter in parameters.items()]
    return f"the options are {', '.join(names) or 'none'}"
