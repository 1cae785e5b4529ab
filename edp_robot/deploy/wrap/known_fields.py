"""Names, units and limits of a foreign policy: what is known, its source, and what is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.deploy.wrap.command_map import MAP_HELP, texts
from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.history import ORDER_HELP, History, history
from policy_server.contract.field import Field
from policy_server.contract.manifest import parse_json
from sim.core.spec import TaskSpec

NO_LIMIT = "none"  # in a fields file and in answers; null in a file means: not known yet
LIMITS = {"low": -math.inf, "high": math.inf, "max_rate": math.inf}
REQUIRED = ("name", "size", "unit", *LIMITS)  # keys of a field in the order of asking
VECTORS = ("obs", "action")
SINGLE = {"name": str, "control_hz": float, "n_action_steps": int, "action_map": str}
HISTORY = {"history": int, "history_order": str}  # only where the policy sees one
CHOICES = {"action_map": MAP_HELP, "history_order": ORDER_HELP}
TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", list: "a list"}


@dataclass(frozen=True)
class Draft:
    """A field as far as it is known; None is what is missing.

    A limit of one number stands for all `size` of them. `entries` may stay None: then nothing is
    known of the names of the numbers. `history` may stay None: then it is the policy's.
    """

    name: str | None = None
    size: int | None = None
    unit: str | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    max_rate: tuple[float, ...] | None = None
    entries: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()
    history: int | None = None

    def missing(self, vector: str) -> list[str]:
        """Returns the required keys that are not known; an obs has no rate."""
        return [key for key in _keys(vector) if getattr(self, key) is None]

    def to_field(self, start: int) -> Field:
        """Returns the bundle's field from index `start` on."""
        n = self.size or 1
        low, high, rate = (self._spread(key, n) for key in LIMITS)
        return Field(
            name=str(self.name),
            start=start,
            stop=start + n,
            unit=str(self.unit),
            low=low,
            high=high,
            max_rate=None if np.isinf(rate).all() else rate,
            entries=self.entries,
        )

    def _spread(self, key: str, n: int) -> tuple[float, ...]:
        """Returns a limit with `n` numbers."""
        limit = getattr(self, key) or (LIMITS[key],)
        return limit * n if len(limit) == 1 else limit

    def to_json(self, vector: str) -> dict[str, Any]:
        """Returns the entry of a fields file, with `entries` if the field has several numbers."""
        values = {key: getattr(self, key) for key in _keys(vector)}
        limits = {key: _limit_to_json(values[key]) for key in LIMITS if key in values}
        names = {} if self.size == 1 else {"entries": self.entries and list(self.entries)}
        steps = {} if self.history is None else {"history": self.history}
        return {**values, **limits, **names, **steps}


@dataclass(frozen=True)
class Known:
    """What is known of a policy besides its graph; `sources` has the source of each attribute.

    `history` is how many observations it sees, `history_order` how they lie in its input.
    """

    obs: tuple[Draft, ...] = ()
    action: tuple[Draft, ...] = ()
    control_hz: float | None = None
    action_map: str | None = None
    n_action_steps: int | None = None
    name: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    history: int | None = None
    history_order: str | None = None

    def __post_init__(self) -> None:
        """Raises WrapError for a rate or a number of steps that no policy can have."""
        if self.control_hz is not None and not 0 < self.control_hz < math.inf:
            raise WrapError(f"control_hz {self.control_hz!r}: expected a rate above 0 [Hz]")
        if self.n_action_steps is not None and self.n_action_steps < 1:
            raise WrapError(f"n_action_steps {self.n_action_steps!r}: expected at least 1")

    def drafts(self, vector: str) -> tuple[Draft, ...]:
        """Returns the fields of "obs" or "action"."""
        return self.obs if vector == "obs" else self.action

    def over(self, other: Known) -> Known:
        """Returns what is known here, and the rest from `other`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        mine = {key: value for key, value in values.items() if value not in (None, ())}
        return replace(other, **{**mine, "sources": {**other.sources, **self.sources}})

    def missing(self) -> list[tuple[str, int, str]]:
        """Returns (vector, index, key) of all that a bundle needs and that is not known.

        The vector is "" for what belongs to no field.
        """
        single = [k for k in ("action_map", "control_hz") if getattr(self, k) is None]
        if max(self._lengths()) > 1 and len(self.obs) > 1 and self.history_order is None:
            single.append("history_order")
        of_fields = [
            (vector, i, key)
            for vector in VECTORS
            for i, draft in enumerate(self.drafts(vector))
            for key in draft.missing(vector)
        ]
        return [*(("", 0, key) for key in single), *of_fields]

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a fields file; null for what is missing."""
        vectors = {v: [draft.to_json(v) for draft in self.drafts(v)] for v in VECTORS}
        single = {key: getattr(self, key) for key in SINGLE}
        if max(self._lengths()) > 1:
            single |= {key: getattr(self, key) for key in HISTORY}
        return {**single, **vectors}

    def to_fields(self, vector: str) -> tuple[Field, ...]:
        """Returns the bundle's fields of "obs" or "action"."""
        made: list[Field] = []
        for draft in self.drafts(vector):
            made.append(draft.to_field(made[-1].stop if made else 0))
        return tuple(made)

    def past(self) -> History | None:
        """Returns the history of observations that the policy sees, or None."""
        sizes = [draft.size or 0 for draft in self.obs]
        return history(sizes, self._lengths(), self.history_order)

    def _lengths(self) -> list[int]:
        """Returns how many observations the policy sees of each field."""
        return [draft.history or self.history or 1 for draft in self.obs] or [1]

    def fitted(self, vector: str, dim: int, port: str) -> Known:
        """Returns this with the one unknown size of a vector's fields worked out.

        Args:
            vector: "obs" or "action".
            dim: Length of the vector in the graph.
            port: What the graph calls it, for messages.

        Raises:
            WrapError: The sizes do not add up to `dim`. The message has both.
        """
        drafts = list(self.drafts(vector))
        lengths = self._lengths() if vector == "obs" else [1] * len(drafts)
        counts = list(zip(drafts, lengths, strict=True))
        total = sum((draft.size or 0) * n for draft, n in counts)
        unknown = [i for i, draft in enumerate(drafts) if draft.size is None]
        at_least = total + sum(lengths[i] for i in unknown)
        fits = at_least <= dim if unknown else total == dim
        if len(unknown) == 1:
            fits = fits and (dim - total) % lengths[unknown[0]] == 0
        if not fits:
            more = f" and {len(unknown)} fields of unknown size" if unknown else ""
            seen = f" in a history of {max(lengths)}" if max(lengths) > 1 else ""
            raise WrapError(
                f"{self.sources.get(vector, 'what is known')} has {total} {vector} entries{more}"
                f"{seen}, but the graph's {port} has {dim}; "
                "give the task or the fields that the policy was trained with, and --history N "
                "where it sees N observations"
            )
        if len(unknown) == 1:
            size = (dim - total) // lengths[unknown[0]]
            drafts[unknown[0]] = replace(drafts[unknown[0]], size=size)
        return replace(self, **{vector: tuple(drafts)})


def from_task(spec: TaskSpec) -> Known:
    """Returns what a task says: all but the action map, which depends on the policy."""
    source = f"task {spec.name}"

    def draft(f: Field) -> Draft:
        rate = f.max_rate or (math.inf,)
        return Draft(f.name, len(f), f.unit, f.low, f.high, rate, f.entries, (source,))

    return Known(
        obs=tuple(draft(f) for f in spec.obs),
        action=tuple(draft(f) for f in spec.action),
        control_hz=1 / spec.control_period_s,
        sources=dict.fromkeys((*VECTORS, "control_hz"), source),
    )


def from_file(path: str | Path) -> Known:
    """Returns what a fields file says (docs/your_policy.md has its schema).

    Raises:
        WrapError, BundleError: It is missing, no strict JSON, or does not follow the schema.
    """
    path = Path(path)
    if not path.is_file():
        raise WrapError(
            f"{path}: no such fields file; run without --fields, and a template is written"
        )
    keys = {*SINGLE, *HISTORY, *VECTORS}
    raw = _object(parse_json(path.read_bytes(), str(path)), keys, path.name)
    for vector in VECTORS:
        items = _typed(raw.get(vector), list, f"{path.name}: {vector}") or []
        where = f"{path.name}: {vector}"
        raw[vector] = tuple(
            _draft(item, vector, f"{where}[{i}]", path.name) for i, item in enumerate(items)
        )
    for key, expected in {**SINGLE, **HISTORY}.items():
        raw[key] = _typed(raw.get(key), expected, f"{path.name}: {key}")
    for key, choices in CHOICES.items():
        if raw[key] not in (None, *choices):
            raise WrapError(
                f"{path.name}: {key} {raw[key]!r}, expected one of {', '.join(choices)}"
            )
    _check_history(raw["history"], f"{path.name}: history")
    said = [key for key, value in raw.items() if value not in (None, ())]
    return Known(**raw, sources=dict.fromkeys(said, path.name))


def from_metadata(metadata: dict[str, str], obs_dim: int, act_dim: int) -> Known:
    """Returns what a file's metadata says: names of joints, names and histories of observations.

    A list of joints whose length is not `act_dim` names something else, and is not used.

    Args:
        metadata: The file's metadata.
        obs_dim: Length of an observation.
        act_dim: Length of an action.
    """
    source = "metadata"
    terms = texts(metadata, "observation_names")
    said = texts(metadata, "observation_dims")
    sizes: list[int | None] = [None] * len(terms)
    if len(said) == len(terms):
        sizes = [int(size) if size.isdecimal() else None for size in said]
    steps = texts(metadata, "observation_history_lengths")
    known = len(steps) == len(terms) and all(map(str.isdecimal, steps))
    lengths = [max(int(n), 1) for n in steps] if known else [None] * len(terms)
    obs = tuple(
        Draft(name, size, sources=(source,), history=n)
        for name, size, n in zip(terms, sizes, lengths, strict=True)
    )
    obs = obs if len(obs) <= obs_dim else ()
    joints = texts(metadata, "joint_names")
    action = tuple(Draft(f"{joint}.target", 1, sources=(source,)) for joint in joints)
    action = action if len(action) == act_dim else ()
    # The exporters that write lengths flatten one term after the other.
    order = "term" if any(draft.history for draft in obs) else None
    found = {"obs": obs, "action": action, "history_order": order}
    sources = {key: source for key, value in found.items() if value}
    return Known(obs, action, sources=sources, history_order=order)


def blank(obs_dim: int | None, act_dim: int, horizon: int, name: str) -> Known:
    """Returns what every graph says.

    Args:
        obs_dim: Length of an observation. None: unknown, because the policy sees a history.
        act_dim: Length of an action.
        horizon: Actions of an answer; all of them are executed.
        name: Name of the policy.
    """
    return Known(
        obs=(Draft(size=obs_dim),),
        action=(Draft(size=act_dim),),
        n_action_steps=horizon,
        name=name,
        sources={"n_action_steps": "the graph's horizon", "name": "file name"},
    )


def _keys(vector: str) -> tuple[str, ...]:
    """Returns the required keys of a field of "obs" or "action"."""
    return REQUIRED if vector == "action" else tuple(k for k in REQUIRED if k != "max_rate")


def _draft(raw: Any, vector: str, where: str, source: str) -> Draft:
    """Returns one field of a fields file; a size that is not mentioned is 1."""
    steps = {"history"} if vector == "obs" else set()
    raw = _object(raw, {*_keys(vector), "entries", *steps}, where)
    size = _typed(raw.get("size", 1), int, f"{where}.size")
    if size is not None and size < 1:
        raise WrapError(f"{where}.size is {size}, expected a whole number >= 1")
    entries = _typed(raw.get("entries"), list, f"{where}.entries")
    low, high, rate = (_limit_from_json(raw.get(key), key, where) for key in LIMITS)
    return Draft(
        name=_typed(raw.get("name"), str, f"{where}.name"),
        size=size,
        unit=_typed(raw.get("unit"), str, f"{where}.unit"),
        low=low,
        high=high,
        max_rate=rate,
        entries=tuple(entries) if entries else None,
        sources=(source,),
        history=_check_history(
            _typed(raw.get("history"), int, f"{where}.history"), f"{where}.history"
        ),
    )


def _check_history(value: int | None, where: str) -> int | None:
    """Returns a number of observations, which is null or at least 1."""
    if value is not None and value < 1:
        raise WrapError(f"{where} is {value}, expected a whole number >= 1")
    return value


def _object(raw: Any, keys: set[str], where: str) -> dict[str, Any]:
    """Returns `raw` if it is a JSON object without keys other than `keys`."""
    if not isinstance(raw, dict):
        raise WrapError(f"{where} is {raw!r}, expected an object with {sorted(keys)}")
    unknown = sorted(set(raw) - keys)
    if unknown:
        raise WrapError(f"{where} has unknown keys {unknown}; there are {sorted(keys)}")
    return dict(raw)


def _typed(value: Any, expected: type, where: str) -> Any:
    """Returns `value`, which is null or of the expected type."""
    types = (int, float) if expected is float else (expected,)
    if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
        name = TYPE_NAMES[expected]
        raise WrapError(f"{where} is {value!r}, expected {name}, or null for not known")
    return value


def _limit_from_json(value: Any, key: str, where: str) -> tuple[float, ...] | None:
    """Returns a limit: a number or "none", or a list of them; None where it is null."""
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(number is None for number in numbers):
        raise WrapError(
            f'{where}.{key} is {value!r}, expected numbers, "{NO_LIMIT}" for no limit, or null for '
            "the whole"
        )
    return tuple(
        LIMITS[key] if number == NO_LIMIT else float(_typed(number, float, f"{where}.{key}"))
        for number in numbers
    )


def _limit_to_json(limit: tuple[float, ...] | None) -> Any:
    if limit is None:
        return None
    numbers = [NO_LIMIT if math.isinf(value) else value for value in limit]
    return numbers[0] if len(set(limit)) == 1 else numbers
