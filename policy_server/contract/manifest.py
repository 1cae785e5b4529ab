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

from policy_server.contract.checks import is_int, is_number, require
from policy_server.contract.errors import BundleError
from policy_server.contract.field import Field

SCHEMA_VERSION = 1
_KEYS = {
    *("schema_version", "name", "task", "source_commit", "config_hash", "obs", "action", "horizon"),
    *("n_action_steps", "control_period_s", "latent_dim", "sampler", "metrics", "parity", "files"),
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        require(
            self.schema_version == SCHEMA_VERSION,
            f"schema version {self.schema_version!r}: this code reads {SCHEMA_VERSION}; export the policy again",
        )
        for key in ("name", "task", "source_commit", "config_hash"):
            require(
                isinstance(getattr(self, key), str),
                f"{key} {getattr(self, key)!r}: expected a text",
            )
        _check_tiling("obs", self.obs)
        _check_tiling("action", self.action)
        for key, least in (("horizon", 1), ("n_action_steps", 1), ("latent_dim", 0)):
            value = getattr(self, key)
            require(
                is_int(value) and value >= least,
                f"{key} {value!r}: expected a whole number >= {least}",
            )
        require(
            self.n_action_steps <= self.horizon,
            f"n_action_steps {self.n_action_steps} above horizon {self.horizon}: no action to execute",
        )
        require(
            is_number(self.control_period_s) and 0 < self.control_period_s <= 3600,
            f"control_period_s {self.control_period_s!r}: expected a number above 0, at most 3600 [s]",
        )
        for key in ("sampler", "metrics", "parity", "files"):
            require(
                isinstance(getattr(self, key), dict),
                f"{key} {getattr(self, key)!r}: expected an object",
            )
        require(
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
        require(
            isinstance(raw, dict), f"manifest is a {type(raw).__name__}, expected a JSON object"
        )
        version = raw.get("schema_version")
        require(
            is_int(version) and version == SCHEMA_VERSION,
            f"schema version {version!r}: this code reads {SCHEMA_VERSION}; export the policy again",
        )
        missing, unknown = sorted(_KEYS - set(raw)), sorted(set(raw) - _KEYS)
        require(not missing and not unknown, f"manifest keys: missing {missing}, unknown {unknown}")
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
    require(known, f"{what} {raw!r}: expected an object with dim and fields")
    fields = tuple(Field.from_dict(item) for item in raw["fields"])
    require(
        bool(fields) and raw["dim"] == fields[-1].stop,
        f"{what}: dim {raw['dim']!r} is not where its fields end",
    )
    return fields


def _check_tiling(what: str, fields: tuple[Field, ...]) -> None:
    """Raises BundleError unless the fields follow one another from 0 without gaps, under different names."""
    require(len(fields) > 0, f"{what} has no fields")
    starts = [field.start for field in fields]
    expected = [0, *(field.stop for field in fields[:-1])]
    require(
        starts == expected,
        f"{what} fields start at {starts}, expected {expected}: no gap, no overlap",
    )
    names = [field.name for field in fields]
    require(len(set(names)) == len(names), f"{what} field names repeat: {names}")


def _concat(fields: tuple[Field, ...], pick: Callable[[Field], tuple[float, ...]]) -> np.ndarray:
    return np.array([value for field in fields for value in pick(field)], dtype=np.float32)
