"""The contract of `calibration.json`: what was measured on one robot, bound by a hash.

    {"schema_version": 1, "robot": "...", "created": "2026-11-23T13:00:00+00:00",
     "sections": {"latency": {...}, ...}, "sha256": "..."}

`sha256` is the hash of the canonical JSON (sorted keys, no spaces, ASCII) of everything else. A
policy can name the calibration that it was trained with, and a file that was changed is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from policy_server.contract.disk.files import write_json

SCHEMA_VERSION = 1
FIELDS = {"schema_version": int, "robot": str, "created": str, "sections": dict, "sha256": str}


class CalibrationError(ValueError):
    """A file, a signal, a robot or a graph cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Calibration:
    """What a checked `calibration.json` says.

    Attributes:
        robot: Name of the robot that was measured.
        created: UTC time of writing, ISO 8601.
        sections: Measurements by kind, such as `latency`. Each is a JSON object.
        sha256: Hash of the content.
        schema_version: Version of the file's schema.
    """

    robot: str
    created: str
    sections: dict[str, dict[str, Any]]
    sha256: str
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Returns the calibration in `path`, after checking schema, numbers and hash.

        Raises:
            CalibrationError: The file is missing, is not JSON, has another schema, holds a number
                that is not finite, or was changed after it was written.
        """
        document = _read(path)
        _check_schema(document, str(path))
        found = content_hash(document)
        if found != document["sha256"]:
            raise CalibrationError(
                f"{path} was changed after it was written: its content has sha256 {found[:12]}..., "
                f"it says {document['sha256'][:12]}...; measure again instead of editing it"
            )
        return cls(**document)

    def section(self, name: str) -> dict[str, Any]:
        """Returns the section `name`.

        Raises:
            CalibrationError: There is none. The message lists those that exist.
        """
        if name not in self.sections:
            raise CalibrationError(
                f"no section {name!r} in the calibration of {self.robot!r}; {_list(self.sections)}"
            )
        return self.sections[name]


def content_hash(document: dict[str, Any]) -> str:
    """Returns the sha256 (hex) of a document's canonical JSON, without its own `sha256`.

    Raises:
        CalibrationError: The document holds a number that is not finite, or what JSON cannot hold.
    """
    content = {key: value for key, value in document.items() if key != "sha256"}
    _check_plain(content, "calibration")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def save(
    path: str | Path, robot: str, sections: dict[str, dict[str, Any]], created: str | None = None
) -> str:
    """Writes `calibration.json` atomically and returns its hash.

    Args:
        path: File to write. Missing folders are made.
        robot: Name of the robot.
        sections: Measurements by kind: JSON objects with finite numbers.
        created: UTC time, ISO 8601. None: now.

    Raises:
        CalibrationError: The content would not load again.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "robot": robot,
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
        "sections": sections,
    }
    sha256 = content_hash(document)
    document["sha256"] = sha256
    _check_schema(document, str(path))
    write_json(path, document)
    return sha256


def update(path: str | Path, robot: str, name: str, section: dict[str, Any]) -> str:
    """Puts one section into the file, keeps the others, and returns the new hash.

    Args:
        path: File to change, or to make.
        robot: Name of the robot.
        name: Name of the section.
        section: JSON object with finite numbers.

    Raises:
        CalibrationError: The file there is damaged or belongs to another robot.
    """
    return save(path, robot, sections_of(path, robot) | {name: section})


def sections_of(path: str | Path, robot: str) -> dict[str, dict[str, Any]]:
    """Returns the sections of the file, none where there is no file yet.

    Raises:
        CalibrationError: The file is damaged or belongs to another robot.
    """
    if not Path(path).exists():
        return {}
    old = Calibration.load(path)
    if old.robot != robot:
        raise CalibrationError(
            f"{path} belongs to robot {old.robot!r}, not {robot!r}; choose another file"
        )
    return old.sections


def _read(path: str | Path) -> Any:
    """Returns the JSON in a file. Raises CalibrationError where it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise CalibrationError(f"cannot read the calibration {path}: {error.strerror}") from error
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    except ValueError as error:
        raise CalibrationError(f"{path} is not JSON: {error}") from error


def _check_schema(document: Any, path: str) -> None:
    """Raises CalibrationError unless a document has the contract's fields, of the right types."""
    if not isinstance(document, dict):
        raise CalibrationError(
            f"{path} holds a {type(document).__name__}, expected an object with {_list(FIELDS)}"
        )
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise CalibrationError(
            f"{path} has schema_version {version!r}, this program reads {SCHEMA_VERSION}"
        )
    if set(document) != set(FIELDS):
        raise CalibrationError(
            f"{path} has the fields {sorted(document)}, expected {sorted(FIELDS)}"
        )
    for key, kind in FIELDS.items():
        if type(document[key]) is not kind:
            raise CalibrationError(f"{path}: {key} is {document[key]!r}, expected {kind.__name__}")
    for name, section in document["sections"].items():
        if not isinstance(section, dict):
            raise CalibrationError(f"{path}: section {name!r} is {section!r}, expected an object")
    _check_utc(document["created"], path)


def _check_utc(created: str, path: str) -> None:
    """Raises CalibrationError unless `created` is an ISO time in UTC."""
    try:
        offset = datetime.fromisoformat(created).utcoffset()
    except ValueError:
        offset = None
    if offset != timedelta(0):
        raise CalibrationError(
            f"{path}: created is {created!r}, expected a UTC time such as 2026-11-23T13:00:00+00:00"
        )


def _check_plain(value: Any, where: str) -> None:
    """Raises CalibrationError unless `value` is made of what JSON holds, all numbers finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CalibrationError(f"{where} has the key {key!r}; keys must be text")
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise CalibrationError(f"{where} is {value}; every number must be finite")
    elif not isinstance(value, str | int | float | None):
        raise CalibrationError(
            f"{where} is a {type(value).__name__}; expected text, a number, a list or an object"
        )


def _refuse_constant(text: str) -> float:
    """Refuses NaN and Infinity, which Python's JSON reader would accept."""
    raise CalibrationError(f"holds {text}; every number must be finite")


def _list(names: Iterable[str]) -> str:
    """Returns 'there are a, b' for a message."""
    return "there are " + (", ".join(sorted(names)) or "none")
