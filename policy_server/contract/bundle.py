"""The policy bundle: a folder with manifest.json, policy.onnx, golden.npz and optional extras.

It is the contract between training and serving. `save` writes a bundle. `Bundle.load` refuses one
that is damaged or foreign. Nothing in a bundle is ever unpickled or executed as Python.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from policy_server.contract.choices import Precision
from policy_server.contract.errors import BundleError
from policy_server.contract.files import json_text
from policy_server.contract.manifest import Manifest, parse_json

MANIFEST = "manifest.json"
ONNX = "policy.onnx"
GOLDEN = "golden.npz"
CALIBRATION = "calibration.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_GOLDEN_BYTES = 64 << 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk that has passed every check of `load`.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        hash: sha256 (hex) of manifest.json. That file holds the hash of every other one, so this
            identifies the bundle.
    """

    path: Path
    manifest: Manifest
    hash: str

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Returns the bundle at `path` after checking schema, names, hashes and golden arrays.

        Raises:
            BundleError: The folder is missing, damaged, foreign or inconsistent. The message says
                which part.
        """
        path = Path(path)
        try:
            raw = _read_manifest(path)
            manifest = Manifest.from_dict(parse_json(raw, MANIFEST))
            bundle = cls(path, manifest, _sha256(raw))
            bundle._check_files()
            bundle.golden()
            bundle.calibration()
        except (BundleError, OSError) as error:
            raise BundleError(f"bundle {path} refused: {error}") from error
        return bundle

    @property
    def onnx_path(self) -> Path:
        """Path of policy.onnx."""
        return self.path / ONNX

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that it has a graph for; fp32 always."""
        return tuple(p for p in get_args(Precision) if graph_name(p) in self.manifest.files)

    def read(self, name: str) -> bytes:
        """Returns the bytes of the file `name`, which the manifest lists.

        Raises:
            BundleError: The file's hash is not the manifest's.
        """
        data = (self.path / name).read_bytes()
        found = _sha256(data)
        expected = self.manifest.files[name]
        if found != expected:
            raise BundleError(
                f"{name} is damaged: sha256 {found[:12]}..., manifest says {expected[:12]}...; "
                "copy it again"
            )
        return data

    def golden(self) -> dict[str, np.ndarray]:
        """Returns the golden arrays, finite float32.

        They are obs (n, obs_dim), noise (n, latent_dim) and action (n, horizon, act_dim).
        """
        return _read_golden(self.read(GOLDEN), self.manifest)

    def calibration(self) -> Any:
        """Returns the parsed calibration.json, or None if the bundle has none."""
        if CALIBRATION not in self.manifest.files:
            return None
        return parse_json(self.read(CALIBRATION), CALIBRATION)

    def _check_files(self) -> None:
        """Raises BundleError for unsafe names, missing or unlisted files, and wrong hashes."""
        listed = set(self.manifest.files)
        for name in sorted(listed):
            _check_name(name)
        found = {entry.name for entry in self.path.iterdir()} - {MANIFEST}
        missing = sorted((listed | {ONNX, GOLDEN}) - found)
        unlisted = sorted(found - listed)
        if missing or unlisted:
            raise BundleError(f"files: missing {missing}, not listed in the manifest {unlisted}")
        for name in sorted(listed):
            if (self.path / name).is_symlink() or not (self.path / name).is_file():
                raise BundleError(f"{name} is a link or a folder, expected a plain file")
            self.read(name)


def graph_name(precision: Precision) -> str:
    """Returns the graph's file: policy.onnx for fp32, else policy-fp16.onnx or policy-int8.onnx."""
    return ONNX if precision == "fp32" else f"policy-{precision}.onnx"


def extend(bundle: Bundle, extra_files: Mapping[str, bytes], parity: Mapping[str, Any]) -> Bundle:
    """Returns the bundle after rewriting it in place with additions.

    Args:
        bundle: The bundle.
        extra_files: Files to add or replace, by name.
        parity: Entries of the manifest's `parity` to add or replace.

    Raises:
        BundleError: The parts do not fit together.
    """
    kept = {name: bundle.read(name) for name in bundle.manifest.files if name not in (ONNX, GOLDEN)}
    return save(
        bundle.path,
        replace(bundle.manifest, parity={**bundle.manifest.parity, **parity}),
        onnx_bytes=bundle.read(ONNX),
        golden=bundle.golden(),
        extra_files={**kept, **extra_files},
    )


def save(
    path: str | Path,
    manifest: Manifest,
    *,
    onnx_bytes: bytes,
    golden: Mapping[str, np.ndarray],
    extra_files: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Returns the bundle after writing it to `path`, where it replaces an older bundle.

    The files are written to a folder beside `path`, checked as `Bundle.load` does, and renamed. A
    process that is killed at any moment leaves no half bundle under `path`.

    Args:
        path: Folder of the bundle.
        manifest: Its manifest. `files` is replaced by the hashes of the files.
        onnx_bytes: The graph: obs (batch, obs_dim) and noise (batch, latent_dim) to
            action (batch, horizon, act_dim).
        golden: obs (n, obs_dim), noise (n, latent_dim) and action (n, horizon, act_dim) that a
            server computes again before it serves.
        extra_files: More files by name, like calibration.json.

    Raises:
        BundleError: The parts do not fit together, or `path` holds something that is not a bundle.
    """
    path = Path(path)
    files = {**(extra_files or {}), ONNX: onnx_bytes, GOLDEN: _golden_bytes(golden)}
    for name in files:
        _check_name(name)
    listed = replace(manifest, files={name: _sha256(data) for name, data in files.items()})
    if path.exists() and not _replaceable(path):
        raise BundleError(
            f"{path} exists and is not a bundle: not replaced; choose another path or remove it"
        )
    _write(path, {**files, MANIFEST: _manifest_bytes(listed)})
    return Bundle.load(path)


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files` to a folder beside `path`, checks it as a bundle and renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new = scratch / "new"
    try:
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        Bundle.load(new)
        if path.exists():
            os.rename(path, scratch / "old")
        os.rename(new, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replaceable(path: Path) -> bool:
    """Returns whether `path` is a bundle or an empty folder."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / MANIFEST).is_file() or not any(path.iterdir())


def _check_name(name: str) -> None:
    """Raises BundleError for a file name that could leave the folder, hide or be the manifest."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(
            f"file name {name!r}: expected letters, digits, '.', '_' and '-', "
            f"not {MANIFEST}, no folders"
        )


def _read_manifest(path: Path) -> bytes:
    """Returns the bytes of manifest.json. Raises BundleError if it is missing or too large."""
    file = path / MANIFEST
    if not file.is_file() or file.is_symlink():
        raise BundleError(f"no {MANIFEST} in it: not a bundle folder")
    n_bytes = file.stat().st_size
    if n_bytes > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} has {n_bytes} bytes, expected at most {MAX_MANIFEST_BYTES}")
    return file.read_bytes()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _manifest_bytes(manifest: Manifest) -> bytes:
    """Returns manifest.json. Raises BundleError for what strict JSON cannot hold."""
    try:
        return json_text(manifest.to_dict()).rstrip().encode()
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest is not plain JSON: {error}") from error


def _golden_bytes(golden: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        name: np.asarray(array, dtype=np.float32) for name, array in golden.items()
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _read_golden(data: bytes, manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns the golden arrays. Raises BundleError unless they are what `save` asks for."""
    arrays = _unpacked(data)
    shapes = {
        "obs": (manifest.obs_dim,),
        "noise": (manifest.latent_dim,),
        "action": (manifest.horizon, manifest.act_dim),
    }
    if set(arrays) != set(shapes):
        raise BundleError(f"{GOLDEN} holds {sorted(arrays)}, expected {sorted(shapes)}")
    n_rows = len(arrays["obs"]) if arrays["obs"].ndim else 0
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != (n_rows, *shape) or array.dtype != np.float32 or n_rows == 0:
            raise BundleError(
                f"{GOLDEN} {name} is {array.dtype} {array.shape}, expected float32 "
                f"(n, {', '.join(map(str, shape))}), n >= 1 and the same for all"
            )
        if not np.isfinite(array).all():
            raise BundleError(f"{GOLDEN} {name} holds NaN or infinity")
    return arrays


def _unpacked(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file. Raises BundleError if it is damaged or too large."""
    try:
        n_bytes = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if n_bytes > MAX_GOLDEN_BYTES:
            raise BundleError(
                f"{GOLDEN} unpacks to {n_bytes} bytes, expected at most {MAX_GOLDEN_BYTES}"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except BundleError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{GOLDEN} is unreadable: {error}") from error
