"""The manifest of a policy bundle: what a policy expects, answers and was made from, as strict JSON.

Import these names from `policy_server.contract.bundle`, the public face of the contract.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
_KEYS = {
    *("schema_version", "name", "task", "source_commit", "config_hash", "obs", "action", "horizon"),
    *("n_action_steps", "control_period_s", "latent_dim", "sampler", "metrics", "parity", "files"),
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELD_KEYS = {"name", "start", "stop", "unit", "low", "high", "max_rate"}


class BundleError(ValueError):
    """A bundle is damaged, foreign or inconsistent; the message says which part, and what was expected."""


@dataclass(frozen=True)
class Field:
    """A named slice [start, stop) of an obs or action vector.

    Attributes:
        name: What it is, like "joint_pos".
        start: First index.
        stop: One past the last index.
        unit: Physical unit, like "rad"; "1" where there is none.
        low: Smallest value of each entry [unit]; -inf where unbounded.
        high: Largest value of each entry [unit]; +inf where unbounded.
        max_rate: Fastest allowed change of each entry [unit/s]; inf where unlimited, None for no limit at all.
    """

    name: str
    start: int
    stop: int
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_rate: tuple[float, ...] | None = None

    def __post_init__(self):
        """Raises BundleError unless the slice is not empty and every limit has its length and order."""
        _require(
            isinstance(self.name, str) and self.name != "",
            f"field name {self.name!r}: expected a text",
        )
        _require(
            isinstance(self.unit, str), f"field {self.name}: unit {self.unit!r}: expected a text"
        )
        _require(
            _is_int(self.start) and _is_int(self.stop) and 0 <= self.start < self.stop,
            f"field {self.name}: slice [{self.start}, {self.stop}): expected whole numbers, 0 <= start < stop",
        )
        for key in ("low", "high") if self.max_rate is None else ("low", "high", "max_rate"):
            object.__setattr__(self, key, self._limit(key))
        _require(
            all(low <= high for low, high in zip(self.low, self.high, strict=True)),
            f"field {self.name}: low {self.low} above high {self.high}",
        )
        _require(
            self.max_rate is None or min(self.max_rate) > 0,
            f"field {self.name}: max_rate {self.max_rate}: expected rates above 0, or null for no limit",
        )

    def _limit(self, key: str) -> tuple[float, ...]:
        """Returns the limit `key` as a tuple of plain floats of the slice's length."""
        try:
            values = tuple(float(value) for value in getattr(self, key))
        except (TypeError, ValueError, OverflowError) as error:
            raise BundleError(
                f"field {self.name}: {key} {getattr(self, key)!r}: expected numbers"
            ) from error
        width = self.stop - self.start
        _require(
            len(values) == width,
            f"field {self.name}: {key} has {len(values)} entries, expected {width}",
        )
        _require(not any(map(math.isnan, values)), f"field {self.name}: {key} holds NaN")
        return values

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-ready values; an infinite limit becomes null."""
        rate = None if self.max_rate is None else _to_null(self.max_rate)
        limits = {"low": _to_null(self.low), "high": _to_null(self.high), "max_rate": rate}
        return {
            "name": self.name,
            "start": self.start,
            "stop": self.stop,
            "unit": self.unit,
            **limits,
        }

    @classmethod
    def from_dict(cls, raw: Any) -> "Field":
        """Returns the field that `to_dict` wrote. Raises BundleError where keys or types differ."""
        _require(
            isinstance(raw, dict) and set(raw) == _FIELD_KEYS,
            f"field {raw!r}: expected keys {_FIELD_KEYS}",
        )
        for key in ("low", "high", "max_rate"):
            listed = isinstance(raw[key], list) or (key == "max_rate" and raw[key] is None)
            _require(listed, f"field {raw['name']}: {key} {raw[key]!r}: expected a list")
        rate = None if raw["max_rate"] is None else _from_null(raw["max_rate"], math.inf)
        limits = {
            "low": _from_null(raw["low"], -math.inf),
            "high": _from_null(raw["high"], math.inf),
            "max_rate": rate,
        }
        return cls(**{**raw, **limits})


@dataclass(frozen=True)
class Manifest:
    """What a policy expects and answers.

    Attributes:
        schema_version: Version of this layout; only SCHEMA_VERSION is read.
        name: Name of the policy.
        task: Task it was trained for.
        source_commit: Commit of the code that made it.
        config_hash: Hash of the resolved configuration that made it.
        obs: Fields of the obs, in order, without gaps.
        action: Fields of one action, in order, without gaps.
        horizon: Actions predicted per query.
        n_action_steps: Of these, how many are executed before the next query.
        control_period_s: Time between two actions [s].
        latent_dim: Length of the noise input; 0 where the graph has none.
        sampler: How the graph samples, free JSON, like {"method": "student", "n_denoise_steps": 1}.
        metrics: Training metrics, free JSON.
        parity: Difference between the graph and the trained model, like {"max_abs_error": 1e-7}.
        files: sha256 (hex) of every other file of the bundle, by name.
    """

    schema_version: int
    name: str
    task: str
    source_commit: str
    config_hash: str
    obs: tuple[Field, ...]
    action: tuple[Field, ...]
    horizon: int
    n_action_steps: int
    control_period_s: float
    latent_dim: int
    sampler: dict[str, Any]
    metrics: dict[str, Any]
    parity: dict[str, Any]
    files: dict[str, str]

    def __post_init__(self):
        """Raises BundleError for the first attribute out of its range."""
        _require(
            self.schema_version == SCHEMA_VERSION,
            f"schema version {self.schema_version!r}: this code reads {SCHEMA_VERSION}; export the policy again",
        )
        for key in ("name", "task", "source_commit", "config_hash"):
            _require(
                isinstance(getattr(self, key), str),
                f"{key} {getattr(self, key)!r}: expected a text",
            )
        _check_tiling("obs", self.obs)
        _check_tiling("action", self.action)
        for key, least in (("horizon", 1), ("n_action_steps", 1), ("latent_dim", 0)):
            value = getattr(self, key)
            _require(
                _is_int(value) and value >= least,
                f"{key} {value!r}: expected a whole number >= {least}",
            )
        _require(
            self.n_action_steps <= self.horizon,
            f"n_action_steps {self.n_action_steps} above horizon {self.horizon}: no action to execute",
        )
        _require(
            _is_number(self.control_period_s) and 0 < self.control_period_s <= 3600,
            f"control_period_s {self.control_period_s!r}: expected a number above 0, at most 3600 [s]",
        )
        for key in ("sampler", "metrics", "parity", "files"):
            _require(
                isinstance(getattr(self, key), dict),
                f"{key} {getattr(self, key)!r}: expected an object",
            )
        _require(
            all(
                isinstance(value, str) and _SHA256.fullmatch(value) for value in self.files.values()
            ),
            f"files {self.files}: expected a sha256 in hex for each",
        )

    @property
    def obs_dim(self) -> int:
        """Length of one obs."""
        return self.obs[-1].stop

    @property
    def act_dim(self) -> int:
        """Length of one action."""
        return self.action[-1].stop

    @property
    def action_low(self) -> np.ndarray:
        """Lowest action, (act_dim,) float32."""
        return _concat(self.action, lambda field: field.low)

    @property
    def action_high(self) -> np.ndarray:
        """Highest action, (act_dim,) float32."""
        return _concat(self.action, lambda field: field.high)

    @property
    def action_max_rate(self) -> np.ndarray:
        """Fastest change of an action [unit/s], (act_dim,) float32, inf where nothing limits it."""
        return _concat(self.action, lambda field: field.max_rate or (math.inf,) * len(field.low))

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of manifest.json."""
        return {
            **{key: getattr(self, key) for key in _KEYS - {"obs", "action"}},
            "obs": {"dim": self.obs_dim, "fields": [field.to_dict() for field in self.obs]},
            "action": {"dim": self.act_dim, "fields": [field.to_dict() for field in self.action]},
        }

    @classmethod
    def from_dict(cls, raw: Any) -> "Manifest":
        """Returns the manifest that `to_dict` wrote. Raises BundleError where anything differs from the layout."""
        _require(
            isinstance(raw, dict), f"manifest is a {type(raw).__name__}, expected a JSON object"
        )
        version = raw.get("schema_version")
        _require(
            _is_int(version) and version == SCHEMA_VERSION,
            f"schema version {version!r}: this code reads {SCHEMA_VERSION}; export the policy again",
        )
        missing, unknown = sorted(_KEYS - set(raw)), sorted(set(raw) - _KEYS)
        _require(
            not missing and not unknown, f"manifest keys: missing {missing}, unknown {unknown}"
        )
        return cls(
            **{**raw, "obs": _vector("obs", raw["obs"]), "action": _vector("action", raw["action"])}
        )


def dump_json(value: Any) -> str:
    """Returns strict JSON with sorted keys. Raises BundleError for NaN, infinity and what JSON cannot hold."""
    try:
        return json.dumps(value, allow_nan=False, indent=1, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise BundleError(f"not plain JSON: {error}") from error


def parse_json(text: str | bytes, what: str) -> Any:
    """Returns the value of strict JSON. Raises BundleError, naming `what`, for anything else, NaN included."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is not strict JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _vector(what: str, raw: Any) -> tuple[Field, ...]:
    """Returns the fields of manifest entry `what`, {"dim": int, "fields": [...]}."""
    known = (
        isinstance(raw, dict) and set(raw) == {"dim", "fields"} and isinstance(raw["fields"], list)
    )
    _require(known, f"{what} {raw!r}: expected an object with dim and fields")
    fields = tuple(Field.from_dict(item) for item in raw["fields"])
    _require(
        bool(fields) and raw["dim"] == fields[-1].stop,
        f"{what}: dim {raw['dim']!r} is not where its fields end",
    )
    return fields


def _check_tiling(what: str, fields: tuple[Field, ...]) -> None:
    """Raises BundleError unless the fields follow one another from 0 without gaps, under different names."""
    _require(len(fields) > 0, f"{what} has no fields")
    starts = [field.start for field in fields]
    expected = [0, *(field.stop for field in fields[:-1])]
    _require(
        starts == expected,
        f"{what} fields start at {starts}, expected {expected}: no gap, no overlap",
    )
    names = [field.name for field in fields]
    _require(len(set(names)) == len(names), f"{what} field names repeat: {names}")


def _concat(fields: tuple[Field, ...], pick: Callable[[Field], tuple[float, ...]]) -> np.ndarray:
    return np.array([value for field in fields for value in pick(field)], dtype=np.float32)


def _to_null(values: tuple[float, ...]) -> list[float | None]:
    return [None if math.isinf(value) else value for value in values]


def _from_null(values: list[float | None], infinite: float) -> tuple[Any, ...]:
    return tuple(infinite if value is None else value for value in values)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError(message)
