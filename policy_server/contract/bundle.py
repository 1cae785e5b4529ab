"""The policy bundle: a folder with manifest.json, policy.onnx, golden.npz and optional extras.

It is the contract between training and serving. `save` writes one, `Bundle.load` refuses whatever is
damaged or foreign. Nothing in a bundle is ever unpickled or executed as Python.
"""

import hashlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from policy_server.contract.choices import Precision
from policy_server.contract.errors import BundleError
from policy_server.contract.field import Field
from policy_server.contract.manifest import SCHEMA_VERSION, Manifest, dump_json, parse_json

MANIFEST, ONNX, GOLDEN, CALIBRATION = (
    "manifest.json",
    "policy.onnx",
    "golden.npz",
    "calibration.json",
)
MAX_MANIFEST_BYTES = 1 << 20
MAX_GOLDEN_BYTES = 64 << 20
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk that has passed every check of `load`.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        hash: sha256 (hex) of manifest.json, which holds the hash of every other file: it names the bundle.
    """

    path: Path
    manifest: Manifest
    hash: str

    @classmethod
    def load(cls, path: str | Path) -> "Bundle":
        """Returns the bundle at `path`, checked: schema, names, hashes, and the golden arrays' shapes.

        Raises:
            BundleError: The folder is missing, damaged, foreign or inconsistent; the message says where.
        """
        path = Path(path)
        try:
            raw = _read_manifest(path)
            manifest = Manifest.from_dict(parse_json(raw, MANIFEST))
            bundle = cls(path, manifest, hashlib.sha256(raw).hexdigest())
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
        """The precisions that it holds a graph of; fp32 always."""
        return tuple(p for p in get_args(Precision) if graph_name(p) in self.manifest.files)

    def read(self, name: str) -> bytes:
        """Returns the bytes of the listed file `name`. Raises BundleError where its hash is not the manifest's."""
        data = (self.path / name).read_bytes()
        found, expected = hashlib.sha256(data).hexdigest(), self.manifest.files[name]
        if found != expected:
            raise BundleError(
                f"{name} is damaged: sha256 {found[:12]}..., manifest says {expected[:12]}...; copy it again"
            )
        return data

    def golden(self) -> dict[str, np.ndarray]:
        """Returns obs (n, obs_dim), noise (n, latent_dim), action (n, horizon, act_dim), finite float32."""
        return _read_golden(self.read(GOLDEN), self.manifest)

    def calibration(self) -> Any:
        """Returns the parsed calibration.json, or None where the bundle has none."""
        return (
            parse_json(self.read(CALIBRATION), CALIBRATION)
            if CALIBRATION in self.manifest.files
            else None
        )

    def _check_files(self) -> None:
        """Raises BundleError for unsafe names, missing or unlisted files, and hashes that differ."""
        listed = set(self.manifest.files)
        for name in sorted(listed):
            _check_name(name)
        found = {entry.name for entry in self.path.iterdir()} - {MANIFEST}
        missing, unlisted = sorted((listed | {ONNX, GOLDEN}) - found), sorted(found - listed)
        if missing or unlisted:
            raise BundleError(f"files: missing {missing}, not listed in the manifest {unlisted}")
        for name in sorted(listed):
            if (self.path / name).is_symlink() or not (self.path / name).is_file():
                raise BundleError(f"{name} is a link or a folder, expected a plain file")
            self.read(name)


def graph_name(precision: Precision) -> str:
    """Returns the file of a precision's graph: policy.onnx (fp32), policy-fp16.onnx, policy-int8.onnx."""
    return ONNX if precision == "fp32" else f"policy-{precision}.onnx"


def extend(bundle: Bundle, extra_files: Mapping[str, bytes], parity: Mapping[str, Any]) -> Bundle:
    """Returns the bundle, rewritten in place with more files and more entries of `parity`; same names are replaced.

    Raises:
        BundleError: The parts do not fit together.
    """
    kept = {f.name: getattr(bundle.manifest, f.name) for f in fields(Manifest)}
    del kept["schema_version"], kept["files"]
    old = {name: bundle.read(name) for name in bundle.manifest.files if name not in (ONNX, GOLDEN)}
    return save(
        bundle.path,
        **{**kept, "parity": {**bundle.manifest.parity, **parity}},
        onnx_bytes=bundle.read(ONNX),
        golden=bundle.golden(),
        extra_files={**old, **extra_files},
    )


def save(  # noqa: D417  the manifest's own entries are described there
    path: str | Path,
    *,
    name: str,
    task: str,
    source_commit: str,
    config_hash: str,
    obs: tuple[Field, ...],
    action: tuple[Field, ...],
    horizon: int,
    n_action_steps: int,
    control_period_s: float,
    latent_dim: int,
    sampler: dict[str, Any],
    metrics: dict[str, Any],
    parity: dict[str, Any],
    onnx_bytes: bytes,
    golden: Mapping[str, np.ndarray],
    extra_files: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Returns the bundle written to `path`, which replaces a bundle that is there already.

    Everything is written to a sibling folder, checked as `Bundle.load` does, and renamed: a writer killed at
    any moment leaves no half bundle under `path`.

    Args:
        path: Folder of the bundle.
        name, task, ... parity: The manifest's entries of these names; see `Manifest`.
        onnx_bytes: The graph; obs (batch, obs_dim), noise (batch, latent_dim) -> action (batch, horizon, act_dim).
        golden: obs (n, obs_dim), noise (n, latent_dim), action (n, horizon, act_dim) that a server replays.
        extra_files: More files by name, like calibration.json.

    Raises:
        BundleError: The parts do not fit together, or `path` holds something that is not a bundle.
    """
    path = Path(path)
    files = {**(extra_files or {}), ONNX: onnx_bytes, GOLDEN: _golden_bytes(golden)}
    for file_name in files:
        _check_name(file_name)
    hashes = {file_name: hashlib.sha256(data).hexdigest() for file_name, data in files.items()}
    manifest = Manifest(
        *(
            SCHEMA_VERSION,
            name,
            task,
            source_commit,
            config_hash,
            tuple(obs),
            tuple(action),
            horizon,
        ),
        *(n_action_steps, control_period_s, latent_dim, sampler, metrics, parity, hashes),
    )
    if path.exists() and not _replaceable(path):
        raise BundleError(
            f"{path} exists and is not a bundle: not replaced; choose another path or remove it"
        )
    _write(path, {**files, MANIFEST: dump_json(manifest.to_dict()).encode()})
    return Bundle.load(path)


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files` to a sibling folder, checks it as a bundle and renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        Bundle.load(new)
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replaceable(path: Path) -> bool:
    return (
        path.is_dir()
        and not path.is_symlink()
        and ((path / MANIFEST).is_file() or not any(path.iterdir()))
    )


def _check_name(name: str) -> None:
    """Raises BundleError for a name that could leave the bundle's folder, hide in it or shadow the manifest."""
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(
            f"file name {name!r}: expected letters, digits, '.', '_' and '-', not {MANIFEST}, no folders"
        )


def _read_manifest(path: Path) -> bytes:
    """Returns the bytes of manifest.json. Raises BundleError where there is none, or it is too large."""
    file = path / MANIFEST
    if not file.is_file() or file.is_symlink():
        raise BundleError(f"no {MANIFEST} in it: not a bundle folder")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST} has {file.stat().st_size} bytes, expected at most {MAX_MANIFEST_BYTES}"
        )
    return file.read_bytes()


def _golden_bytes(golden: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        name: np.asarray(array, dtype=np.float32) for name, array in golden.items()
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _read_golden(data: bytes, manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns the golden arrays. Raises BundleError for names, dtypes, shapes or values out of the contract."""
    try:
        size = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if size > MAX_GOLDEN_BYTES:
            raise BundleError(
                f"{GOLDEN} unpacks to {size} bytes, expected at most {MAX_GOLDEN_BYTES}"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{GOLDEN} is unreadable: {error}") from error
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
                f"{GOLDEN} {name} is {array.dtype} {array.shape}, expected float32 (n, {', '.join(map(str, shape))}), "
                "n >= 1 and the same for all"
            )
        if not np.isfinite(array).all():
            raise BundleError(f"{GOLDEN} {name} holds NaN or infinity")
    return arrays
