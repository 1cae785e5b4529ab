"""What lies in a bundle's folder: the files that its manifest lists, links, and guests.

A guest is what the manifest does not list, such as README.md or .git. Nothing reads guests, and
nothing deletes them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from policy_server.contract.errors import BundleError
from policy_server.contract.manifest import Manifest, parse_json

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
GIT_LFS = b"version https://git-lfs"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def read_manifest(path: Path) -> bytes:
    """Returns the bytes of manifest.json. Raises BundleError if it is missing or too large."""
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"no {MANIFEST} in it: not a bundle folder")
    n_bytes = file.stat().st_size
    if n_bytes > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} has {n_bytes} bytes, expected at most {MAX_MANIFEST_BYTES}")
    return file.read_bytes()


def read_files(path: Path, raw: bytes) -> dict[str, bytes]:
    """Returns the bytes of the files that manifest.json lists, by name; links are followed.

    Raises:
        BundleError: A name could leave the folder, or a file is missing or no plain file.
    """
    names = sorted(Manifest.from_dict(parse_json(raw, MANIFEST)).files)
    require_names(names)
    missing = [name for name in names if not (path / name).exists()]
    if missing:
        broken = any((path / name).is_symlink() for name in missing)
        advice = "; a link leads nowhere: copy the files that the links name (cp -rL)"
        raise BundleError(f"files: missing {missing}{advice if broken else ''}")
    for name in names:
        if not (path / name).is_file():
            raise BundleError(f"{name} is a folder or a device, expected a file")
    return {name: (path / name).read_bytes() for name in names}


def check_hash(name: str, data: bytes, expected: str) -> None:
    """Raises BundleError where the hash of a file is not the manifest's.

    Args:
        name: Name of the file.
        data: Its bytes.
        expected: sha256 (hex) that the manifest lists.
    """
    found = sha256(data)
    if found == expected:
        return
    advice = "fetch it with `git lfs pull`" if data.startswith(GIT_LFS) else "copy it again"
    raise BundleError(
        f"{name} is damaged: sha256 {found[:12]}..., manifest says {expected[:12]}...; {advice}"
    )


def require_names(names: Iterable[str]) -> None:
    """Raises BundleError for names that are not safe."""
    for name in names:
        _check_name(name)


def _check_name(name: str) -> None:
    """Raises BundleError for a file name that could leave the folder, hide or be the manifest."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(
            f"file name {name!r}: expected letters, digits, '.', '_' and '-', "
            f"not {MANIFEST}, no folders"
        )


def check_replaceable(path: str | Path) -> set[str]:
    """Returns the names of the files that `save` replaces in `path`.

    There may be nothing at `path`, an empty folder, or a bundle with nothing beside it.

    Raises:
        BundleError: Something else is there. The message names it.
    """
    path = Path(path)
    if path.is_symlink():
        raise BundleError(f"{path} is a link to {path.readlink()}: give the folder itself")
    if not path.exists():
        return set()
    if not path.is_dir():
        raise BundleError(f"{path} is a file, expected a new folder; choose another path")
    there = {entry.name for entry in path.iterdir()}
    if not there:
        return set()
    advice = "nothing was replaced; choose another path, or move it away"
    try:
        manifest = Manifest.from_dict(parse_json(read_manifest(path), MANIFEST))
        require_names(manifest.files)
    except BundleError as error:
        reason = str(error)[:200]
        raise BundleError(
            f"{path} holds {_listed(there)} and is not a bundle ({reason}): {advice}"
        ) from error
    guests = there - {MANIFEST, *manifest.files}
    guests |= {name for name in manifest.files if (path / name).is_dir()}
    guests |= set(links(path, manifest))
    if guests:
        raise BundleError(
            f"{path} is a bundle and holds {_listed(guests)}, which no export made: {advice}"
        )
    if Path.cwd().is_relative_to(path.resolve()) or path.is_mount():
        raise BundleError(
            f"{path} is the current folder, holds it, or is a mount point, so it cannot be "
            "replaced; choose another path, or empty it first"
        )
    return {MANIFEST, *manifest.files}


def links(path: Path, manifest: Manifest) -> list[str]:
    """Returns the names of a bundle's files that are links."""
    names = (MANIFEST, *sorted(manifest.files))
    return [name for name in names if (path / name).is_symlink()]


def _listed(names: Iterable[str]) -> str:
    """Returns at most eight names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    return ", ".join(ordered[:8]) + more


def sha256(data: bytes) -> str:
    """Returns the sha256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()
