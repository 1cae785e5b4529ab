"""Names, units and limits of a wrapped policy: what is known of them, from where, and what is still missing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.deploy.wrap.command_map import MAP_HELP, texts
from edp_robot.deploy.wrap.foreign_file import WrapError
from policy_server.contract.field import Field
from policy_server.contract.manifest import parse_json
from sim.core.spec import FieldSpec, TaskSpec

NO_LIMIT = "none"  # in a fields file and in answers; null there means: not known yet
LIMITS = {"low": -math.inf, "high": math.inf, "max_rate": math.inf}


@dataclass(frozen=True)
class Draft:
    """A field as far as it is known; None is what is missing. A limit of one entry stands for all `size` of them."""

    name: str | None = None
    size: int | None = None
    unit: str | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    max_rate: tuple[float, ...] | None = None
    sources: tuple[str, ...] = ()

    def missing(self, vector: str) -> list[str]:
        """Returns the keys that are not known, in the order of asking; an obs has no rate."""
        keys = [
            f.name for f in fields(self) if f.name != "sources" and getattr(self, f.name) is None
        ]
        return [key for key in keys if vector == "action" or key != "max_rate"]

    def to_field(self, start: int) -> Field:
        """Returns the bundle's field from index `start` on."""
        n = self.size or 1
        low, high, rate = (
            _spread(self.name, key, getattr(self, key) or (LIMITS[key],), n) for key in LIMITS
        )
        rate = None if np.isinf(rate).all() else rate
        return Field(str(self.name), start, start + n, str(self.unit), low, high, rate)

    def to_json(self, vector: str) -> dict[str, Any]:
        """Returns the entry of a fields file; `from_json` reads it."""
        limits = {
            key: _limit_to_json(getattr(self, key))
            for key in LIMITS
            if vector == "action" or key != "max_rate"
        }
        return {"name": self.name, "size": self.size, "unit": self.unit, **limits}


@dataclass(frozen=True)
class Known:
    """What is known of a policy besides its graph; `sources` says from where, by attribute."""

    obs: tuple[Draft, ...] = ()
    action: tuple[Draft, ...] = ()
    control_hz: float | None = None
    action_map: str | None = None
    n_action_steps: int | None = None
    name: str | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def over(self, other: Known) -> Known:
        """Returns what is known here, and of the rest what `other` knows."""
        mine = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) not in (None, ())
        }
        return replace(other, **{**mine, "sources": {**other.sources, **self.sources}})

    def missing(self) -> list[tuple[str, int, str]]:
        """Returns (vector, index, key) of everything that a bundle needs and that is not known; vector "" for none."""
        single = [
            ("", 0, key) for key in ("action_map", "control_hz") if getattr(self, key) is None
        ]
        parts = [
            (vector, i, key)
            for vector in ("obs", "action")
            for i, draft in enumerate(getattr(self, vector))
            for key in draft.missing(vector)
        ]
        return [*single, *parts]

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a fields file; null for what is missing."""
        drafts = {v: [draft.to_json(v) for draft in getattr(self, v)] for v in ("obs", "action")}
        single = ("name", "control_hz", "n_action_steps", "action_map")
        return {**{key: getattr(self, key) for key in single}, **drafts}

    def to_fields(self, vector: str) -> tuple[Field, ...]:
        """Returns the bundle's fields of "obs" or "action"."""
        out, start = [], 0
        for draft in getattr(self, vector):
            out.append(draft.to_field(start))
            start = out[-1].stop
        return tuple(out)

    def fitted(self, vector: str, dim: int, port: str) -> Known:
        """Returns this with one unknown size worked out, after checking that the sizes add up to the graph's.

        Raises:
            WrapError: They do not; the message says both.
        """
        drafts: tuple[Draft, ...] = getattr(self, vector)
        total, unknown = (
            sum(d.size or 0 for d in drafts),
            [i for i, d in enumerate(drafts) if d.size is None],
        )
        if total + len(unknown) > dim or (not unknown and total != dim):
            more = f" and {len(unknown)} fields of unknown size" if unknown else ""
            raise WrapError(
                f"{self.sources.get(vector, 'what is known')} has {total} {vector} entries{more}, "
                f"but the graph's {port} has {dim}; "
                "give the task or the fields that the policy was trained with"
            )
        if len(unknown) != 1:
            return self
        whole = replace(drafts[unknown[0]], size=dim - total)
        return replace(self, **{vector: (*drafts[: unknown[0]], whole, *drafts[unknown[0] + 1 :])})


def from_task(spec: TaskSpec) -> Known:
    """Returns what a task says: everything but the action map, which the policy decides."""
    source = f"task {spec.name}"

    def draft(f: FieldSpec) -> Draft:
        rate = f.max_rate or (math.inf,)
        return Draft(f.name, f.stop - f.start, f.unit, f.low, f.high, rate, (source,))

    hz = 1 / spec.control_period_s
    sources = {"obs": source, "action": source, "control_hz": source}
    return Known(tuple(map(draft, spec.obs)), tuple(map(draft, spec.action)), hz, sources=sources)


def from_file(path: str | Path) -> Known:
    """Returns what a fields file says (docs/wrap.md has its schema).

    Raises:
        WrapError, BundleError: It is missing, no strict JSON, or has keys or values that are not of the schema.
    """
    path = Path(path)
    if not path.is_file():
        raise WrapError(
            f"{path}: no such fields file; run without --fields, and a template is written"
        )
    raw = _object(parse_json(path.read_bytes(), str(path)), set(Known().to_json()), path.name)
    for vector in ("obs", "action"):
        if not isinstance(raw.get(vector) or [], list):
            raise WrapError(f"{path.name}: {vector} is {raw[vector]!r}, expected a list of fields")
        items = enumerate(raw.get(vector) or [])
        raw[vector] = tuple(
            _draft(item, vector, f"{path.name}: {vector}[{i}]", path.name) for i, item in items
        )
    for key, expected in (
        ("name", str),
        ("action_map", str),
        ("control_hz", float),
        ("n_action_steps", int),
    ):
        raw[key] = _typed(raw.get(key), expected, f"{path.name}: {key}")
    if raw["action_map"] not in (None, *MAP_HELP):
        raise WrapError(
            f"{path.name}: action_map {raw['action_map']!r}, expected one of {', '.join(MAP_HELP)}"
        )
    return Known(
        **raw, sources={key: path.name for key, value in raw.items() if value not in (None, ())}
    )


def from_metadata(metadata: dict[str, str], obs_dim: int, act_dim: int) -> Known:
    """Returns what a file's metadata says: names of joints, and of observation terms with their sizes if there.

    A list of joint names whose length is not `act_dim` names something else, and is not used.
    """
    source = "metadata"
    joints, terms, sizes = (
        texts(metadata, k) for k in ("joint_names", "observation_names", "observation_dims")
    )
    sized = (
        [int(s) if s.isdecimal() else None for s in sizes]
        if len(sizes) == len(terms)
        else [None] * len(terms)
    )
    obs = tuple(
        Draft(name, size, sources=(source,)) for name, size in zip(terms, sized, strict=True)
    )
    if len(obs) > obs_dim:
        obs = ()
    action = tuple(Draft(f"{joint}.target", 1, sources=(source,)) for joint in joints)
    action = action if len(action) == act_dim else ()
    return Known(
        obs,
        action,
        sources={key: source for key, found in (("obs", obs), ("action", action)) if found},
    )


def blank(obs_dim: int, act_dim: int, horizon: int, name: str) -> Known:
    """Returns what every graph says: the sizes, and defaults that need no question."""
    sources = {"n_action_steps": "the graph's horizon", "name": "file name"}
    return Known(
        (Draft(size=obs_dim),),
        (Draft(size=act_dim),),
        n_action_steps=horizon,
        name=name,
        sources=sources,
    )


def _draft(raw: Any, vector: str, where: str, source: str) -> Draft:
    """Returns one field of a fields file; a size that is not mentioned is 1."""
    raw = _object(raw, set(Draft().to_json(vector)), where)
    name, unit = (_typed(raw.get(key), str, f"{where}.{key}") for key in ("name", "unit"))
    size = _typed(raw.get("size", 1), int, f"{where}.size")
    if size is not None and size < 1:
        raise WrapError(f"{where}.size is {size}, expected a whole number >= 1")
    low, high, rate = (
        _limit_from_json(raw.get(key), LIMITS[key], f"{where}.{key}") for key in LIMITS
    )
    return Draft(name, size, unit, low, high, rate, (source,))


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
        names = {str: "a text", int: "a whole number", float: "a number"}
        raise WrapError(f"{where} is {value!r}, expected {names[expected]}, or null for not known")
    return value


def _limit_from_json(value: Any, infinite: float, where: str) -> tuple[float, ...] | None:
    """Returns a limit: a number or "none", or a list of them; None where it is null."""
    if value is None:
        return None
    entries = value if isinstance(value, list) else [value]
    if not entries or any(entry is None for entry in entries):
        raise WrapError(
            f'{where} is {value!r}, expected numbers, "{NO_LIMIT}" for no limit, or null for the whole'
        )
    return tuple(infinite if e == NO_LIMIT else float(_typed(e, float, where)) for e in entries)


def _limit_to_json(limit: tuple[float, ...] | None) -> Any:
    if limit is None:
        return None
    entries = [NO_LIMIT if math.isinf(value) else value for value in limit]
    return entries[0] if len(set(limit)) == 1 else entries


def _spread(name: str | None, key: str, limit: tuple[float, ...], size: int) -> tuple[float, ...]:
    """Returns a limit with `size` entries."""
    if len(limit) not in (1, size):
        raise WrapError(f"field {name}: {key} has {len(limit)} entries, expected 1 or {size}")
    return limit * size if len(limit) == 1 else limit
