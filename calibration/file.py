"""The contract of `calibration.json`: what was measured on one robot, bound by a hash.

    {"schema_version": 1, "robot": "...", "created": "2026-11-23T13:00:00+00:00",
     "sections": {"latency": {...}, ...}, "sha256": "..."}

`sha256` is that of the canonical JSON (sorted keys, no spaces, ASCII) of everything else, so that a policy
can name the calibration that it was trained with and a changed file is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError

SCHEMA_VERSION = 1
FIELDS = {"schema_version": int, "robot": str, "created": str, "sections": dict, "sha256": str}


@dataclass(frozen=True)
class Calibration:
    """What a checked `calibration.json` says.

    Attributes:
        robot: name of the robot that was measured.
        created: UTC time of writing, ISO 8601.
        sections: measurements by kind, such as `latency`; each is a JSON object.
        sha256: hash of the content.
    """

    robot: str
    created: str
    sections: dict[str, dict[str, Any]]
    sha256: str
    schema_version: int = SCHEMA_VERSION

    def section(self, name: str) -> dict[str, Any]:
        """Returns the section `name`.

        Raises:
            CalibrationError: there is none; the message lists those that exist.
        """
        if name not in self.sections:
            raise CalibrationError(
                f"no section {name!r} in the calibration of {self.robot!r}; {_list(self.sections)}"
            )
        return self.sections[name]


def content_hash(document: dict[str, Any]) -> str:
    """Returns the sha256 (hex) of `document`'s canonical JSON, its own `sha256` left out.

    Raises:
        CalibrationError: it holds a number that is not finite, or what JSON cannot hold.
    """
    content = {key: value for key, value in document.items() if key != "sha256"}
    _check_plain(content, "calibration")
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def save(
    path: str | Path, robot: str, sections: dict[str, dict[str, Any]], created: str | None = None
) -> str:
    """Writes `calibration.json` in one piece (temporary name, then renamed) and returns its hash.

    Args:
        path: where; missing folders are made.
        robot: name of the robot.
        sections: measurements by kind; JSON objects with finite numbers.
        created: UTC time, ISO 8601; now if None.

    Raises:
        CalibrationError: the content would not load again.
    """
    created = created or datetime.now(UTC).isoformat(timespec="seconds")
    document = {
        "schema_version": SCHEMA_VERSION,
        "robot": robot,
        "created": created,
        "sections": sections,
    }
    document["sha256"] = content_hash(document)
    _check_schema(document, str(path))
    _write_atomically(
        Path(path), json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"
    )
    return document["sha256"]


def update(path: str | Path, robot: str, name: str, section: dict[str, Any]) -> str:
    """Puts one section into the file, keeping the others, and returns the new hash.

    Raises:
        CalibrationError: the file there is damaged or belongs to another robot.
    """
    sections: dict[str, dict[str, Any]] = {}
    if Path(path).exists():
        old = load(path)
        if old.robot != robot:
            raise CalibrationError(
                f"{path} belongs to robot {old.robot!r}, not {robot!r}; choose another file"
            )
        sections = dict(old.sections)
    return save(path, robot, sections | {name: section})


def load(path: str | Path) -> Calibration:
    """Returns the calibration in `path`, after checking schema, numbers and hash.

    Raises:
        CalibrationError: the file is missing, is not JSON, has another schema, holds a number that is not
            finite, or was changed after it was written.
    """
    try:
        document = json.loads(
            Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant
        )
    except OSError as error:
        raise CalibrationError(f"cannot read the calibration {path}: {error.strerror}") from error
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    except ValueError as error:
        raise CalibrationError(f"{path} is not JSON: {error}") from error
    _check_schema(document, str(path))
    found = content_hash(document)
    if found != document["sha256"]:
        raise CalibrationError(
            f"{path} was changed after it was written: its content has sha256 {found[:12]}..., it says "
            f"{document['sha256'][:12]}...; measure again (edp calibrate) instead of editing it"
        )
    return Calibration(**document)


def _check_schema(document: Any, path: str) -> None:
    """Raises CalibrationError unless `document` has exactly the fields of the contract, of the right types."""
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
    """Refuses NaN and Infinity, which Python's JSON reader would take."""
    raise CalibrationError(f"holds {text}; every number must be finite")


def _list(names: Any) -> str:
    """Returns 'there are a, b' for a message."""
    return "there are " + (", ".join(sorted(names)) or "none")


def _write_atomically(path: Path, text: str) -> None:
    """Writes `text` so that a reader sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
