"""The manifest of a policy bundle: what a policy expects, answers and was made from."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_server.contract.checks import is_int, is_number, require
from policy_server.contract.errors import BundleError, printable
from policy_server.contract.field import Field, limits

SCHEMA_VERSION = 1
MEMORY_VERSION = 2  # of a policy with memory, so that a reader without memory refuses it
MAX_STATE_DIM = 1 << 18  # 1 MiB for each session of a server
_INTERFACE_NUMBERS = ("horizon", "n_action_steps", "control_period_s")
_MEMORY_KEYS = {"state_dim", "history"}
_LEAST = {"horizon": 1, "n_action_steps": 1, "latent_dim": 0, "state_dim": 0, "history": 1}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a policy expects and answers.

    Attributes:
        name: Name of the policy.
        task: Task that it was trained for.
        source_commit: Commit of the code that made it.
        config_hash: Hash of the resolved configuration that made it.
        obs: Fields of the obs, in order, without gaps.
        action: Fields of one action, in order, without gaps.
        horizon: Actions predicted for each query.
        n_action_steps: How many of these are executed before the next query.
        control_period_s: Time between two actions [s].
        latent_dim: Length of the noise input; 0 if the graph has none.
        sampler: How the graph samples, free JSON, like {"method": "student", "n_denoise_steps": 1}.
        metrics: Training metrics, free JSON.
        parity: How far the graph is from the trained model, like {"max_abs_error": 1e-7,
            "max_relative_error": 3e-8}; the second is a share of each action's range.
        files: sha256 (hex) of every other file of the bundle, by name. `save` fills it in.
        state_dim: Length of the state that the graph takes and gives back; 0 if it has no memory.
            The state is zeros at the start of an episode.
        history: Observations that one answer rests on, if the graph keeps the earlier ones in its
            state; 1: only the newest.

    Raises:
        BundleError: An attribute is out of its range. The message names the first one.
    """

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
    sampler: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    state_dim: int = 0
    history: int = 1

    def __post_init__(self) -> None:
        """Checks every attribute."""
        for key in ("name", "task", "source_commit", "config_hash"):
            value = getattr(self, key)
            require(isinstance(value, str), f"{key} {value!r}: expected a text")
        _check_tiling("obs", self.obs)
        _check_tiling("action", self.action)
        for key, least in _LEAST.items():
            value = getattr(self, key)
            fits = is_int(value) and value >= least
            require(fits, f"{key} {value!r}: expected a whole number >= {least}")
        _check_memory(self.state_dim, self.history)
        require(
            self.n_action_steps <= self.horizon,
            f"n_action_steps {self.n_action_steps} above horizon {self.horizon}: "
            "there are not enough actions to execute",
        )
        period = self.control_period_s
        require(
            is_number(period) and 0 < period <= 3600,
            f"control_period_s {period!r}: expected a number above 0, at most 3600 [s]",
        )
        for key in ("sampler", "metrics", "parity", "files"):
            value = getattr(self, key)
            require(isinstance(value, dict), f"{key} {value!r}: expected an object")
        hashes = self.files.values()
        require(
            all(isinstance(value, str) and _SHA256.fullmatch(value) for value in hashes),
            f"files {self.files}: expected a sha256 in hex for each",
        )

    @property
    def schema_version(self) -> int:
        """Version of the layout: MEMORY_VERSION for a policy with memory, else SCHEMA_VERSION."""
        return MEMORY_VERSION if self.state_dim else SCHEMA_VERSION

    @property
    def shown_name(self) -> str:
        """The name as a terminal may show it; see `printable`."""
        return printable(self.name)

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
        return limits(self.action)[0].astype(np.float32)

    @property
    def action_high(self) -> np.ndarray:
        """Highest action, (act_dim,) float32."""
        return limits(self.action)[1].astype(np.float32)

    @property
    def action_max_rate(self) -> np.ndarray:
        """Fastest change of an action [unit/s], (act_dim,) float32; inf where nothing limits it."""
        rates = [field.max_rate or (math.inf,) * len(field) for field in self.action]
        return np.concatenate(rates).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of manifest.json; without memory, there is no word of it."""
        left_out = set() if self.state_dim else _MEMORY_KEYS
        return {
            **{key: value for key, value in vars(self).items() if key not in left_out},
            "schema_version": self.schema_version,
            "obs": {"dim": self.obs_dim, "fields": [field.to_dict() for field in self.obs]},
            "action": {"dim": self.act_dim, "fields": [field.to_dict() for field in self.action]},
        }

    @classmethod
    def from_dict(cls, raw: Any) -> Manifest:
        """Returns the manifest that `to_dict` wrote.

        Raises:
            BundleError: Something differs from the layout.
        """
        require(isinstance(raw, dict), f"manifest {raw!r}: expected a JSON object")
        version = _checked_version(raw.get("schema_version"))
        has_memory = version == MEMORY_VERSION
        keys = {*cls.__dataclass_fields__, "schema_version"}
        keys -= set() if has_memory else _MEMORY_KEYS
        missing = sorted(keys - set(raw))
        unknown = sorted(set(raw) - keys)
        require(not missing and not unknown, f"manifest keys: missing {missing}, unknown {unknown}")
        obs = _vector("obs", raw["obs"])
        action = _vector("action", raw["action"])
        values = {key: value for key, value in raw.items() if key != "schema_version"}
        manifest = cls(**{**values, "obs": obs, "action": action})
        require(
            manifest.schema_version == version,
            f"schema version {version} with state_dim 0: expected a state, or version "
            f"{SCHEMA_VERSION} without state_dim and history",
        )
        return manifest


def parse_json(text: str | bytes, what: str) -> Any:
    """Returns the value of strict JSON.

    Args:
        text: The JSON.
        what: Where it is from, for the message.

    Raises:
        BundleError: It is not JSON, or holds NaN or infinity.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{what} is not strict JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _checked_version(version: Any) -> int:
    known = (SCHEMA_VERSION, MEMORY_VERSION)
    require(
        is_int(version) and version in known,
        f"schema version {version!r}: this code reads {known[0]} and {known[1]}; "
        "export the policy again, or update edp-robot",
    )
    return version


def _check_memory(state_dim: int, history: int) -> None:
    """Raises BundleError for a state that is too large, or a history that nothing keeps."""
    require(
        state_dim <= MAX_STATE_DIM,
        f"state_dim {state_dim}: expected at most {MAX_STATE_DIM} numbers for each session",
    )
    require(
        history == 1 or state_dim > 0,
        f"history {history} with state_dim 0: the graph has no state to keep observations in",
    )


def _vector(what: str, raw: Any) -> tuple[Field, ...]:
    """Returns the fields of manifest entry `what`, {"dim": int, "fields": [...]}."""
    known = isinstance(raw, dict) and set(raw) == {"dim", "fields"}
    require(
        known and isinstance(raw["fields"], list),
        f"{what} {raw!r}: expected an object with dim and fields",
    )
    fields = tuple(map(Field.from_dict, raw["fields"]))
    require(
        bool(fields) and raw["dim"] == fields[-1].stop,
        f"{what}: dim {raw['dim']!r} is not where its fields end",
    )
    return fields


def _check_tiling(what: str, fields: tuple[Field, ...]) -> None:
    """Raises BundleError unless the fields start at 0, leave no gap and have different names."""
    require(len(fields) > 0, f"{what} has no fields")
    starts = [field.start for field in fields]
    expected = [0, *(field.stop for field in fields[:-1])]
    require(
        starts == expected,
        f"{what} fields start at {starts}, expected {expected}: no gap, no overlap",
    )
    names = [field.name for field in fields]
    require(len(set(names)) == len(names), f"{what} field names repeat: {names}")


def differences(new: Manifest, old: Manifest) -> list[str]:
    """Returns what differs between the interfaces of two policies, nothing where they are equal.

    A robot of the old policy can go on with a new one of the same interface.
    """
    mine = new.to_dict()
    its = old.to_dict()
    found = []
    for vector in ("obs", "action"):
        found += _fields(vector, mine[vector], its[vector])
    found += [
        _changed(name, mine[name], its[name])
        for name in _INTERFACE_NUMBERS
        if mine[name] != its[name]
    ]
    return found


def _fields(vector: str, mine: dict[str, Any], its: dict[str, Any]) -> list[str]:
    """Returns what differs between the fields of one vector."""
    names = [[field["name"] for field in each["fields"]] for each in (mine, its)]
    if names[0] != names[1] or mine["dim"] != its["dim"]:
        sizes = [
            f"{each['dim']} ({', '.join(own)})"
            for each, own in zip((mine, its), names, strict=True)
        ]
        return [f"{vector} {_short(sizes[0])} instead of {_short(sizes[1])}"]
    return [
        _changed(f"{vector} {field['name']}.{key}", field.get(key), before.get(key))
        for field, before in zip(mine["fields"], its["fields"], strict=True)
        for key in sorted(field.keys() | before.keys())
        if field.get(key) != before.get(key)
    ]


def _changed(name: str, now: Any, before: Any) -> str:
    return f"{name} {_short(repr(now))} instead of {_short(repr(before))}"


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."
