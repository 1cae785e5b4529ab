"""Writes files so that a reader, or a kill, sees the old content or the new one, never a part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Writes `content` to a temporary file beside `path` and renames it.

    A missing folder is made.

    Raises:
        OSError: The folder or the file cannot be written. The old content is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Returns the name that this process writes `path` under before it renames the file."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def json_text(value: Any) -> str:
    """Returns strict JSON with sorted keys and a final newline.

    Raises:
        ValueError: The value holds NaN or infinity. TypeError: It holds what JSON cannot.
    """
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: str | Path | None, value: Any) -> None:
    """Writes `value` as strict JSON, atomically. Does nothing where `path` is None.

    Raises:
        ValueError: The value holds NaN or infinity. OSError: The file cannot be written.
    """
    if path is not None:
        write_atomic(path, json_text(value))
