"""The policy bundle: a folder with manifest.json, policy.onnx, golden.npz and optional extras.

It is the contract between training and serving. `save` writes a bundle. `Bundle.load` refuses one
that is damaged or foreign. Nothing in a bundle is ever unpickled or executed as Python.

The manifest's hashes protect the files, so these may be links (a Hugging Face cache, a Kubernetes
configMap), and other files may lie beside them (README.md, .git). Nothing reads those, and nothing
deletes them.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from policy_server.contract.bundle_folder import (
    MANIFEST,
    check_hash,
    check_replaceable,
    links,
    read_files,
    read_manifest,
    require_names,
    sha256,
)
from policy_server.contract.choices import Precision
from policy_server.contract.disk.files import json_text, replace_folder, write_atomic
from policy_server.contract.errors import BundleError
from policy_server.contract.manifest import Manifest, parse_json

ONNX = "policy.onnx"
GOLDEN = "golden.npz"
CALIBRATION = "calibration.json"
MAX_GOLDEN_BYTES = 64 << 20
N_READS = 5  # how often a folder is read again that changes while it is read


@dataclass(frozen=True)
class Bundle:
    """A bundle that has passed every check of `load`.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        hash: sha256 (hex) of manifest.json. That file holds the hash of every other one, so this
            identifies the bundle.
        contents: The bytes of every file that the manifest lists, by name, as they were checked.
            What happens to the folder later changes nothing here.
    """

    path: Path
    manifest: Manifest
    hash: str
    contents: Mapping[str, bytes] = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Returns the bundle at `path` after checking schema, names, hashes and golden arrays.

        A folder that is replaced meanwhile is read again, so that all files are of one version.

        Raises:
            BundleError: The folder is missing, damaged, foreign or inconsistent. The message says
                which part.
        """
        path = Path(path)
        try:
            raw = read_manifest(path)
            for _ in range(N_READS):
                try:
                    return cls._checked(path, raw, read_files(path, raw))
                except (BundleError, OSError):
                    before = raw
                    raw = read_manifest(path)
                    if raw == before:
                        raise
            raise BundleError(f"it changed {N_READS} times while it was read; try again")
        except (BundleError, OSError) as error:
            raise BundleError(f"bundle {path} refused: {error}") from error

    @classmethod
    def _checked(cls, path: Path, raw: bytes, contents: Mapping[str, bytes]) -> Bundle:
        """Returns the bundle of a manifest.json and its files.

        Raises:
            BundleError: They do not fit together.
        """
        manifest = Manifest.from_dict(parse_json(raw, MANIFEST))
        missing = sorted({ONNX, GOLDEN} - set(manifest.files))
        if missing:
            raise BundleError(f"{MANIFEST} does not list {missing}")
        for name, expected in manifest.files.items():
            check_hash(name, contents[name], expected)
        bundle = cls(path, manifest, sha256(raw), contents)
        bundle.golden()
        bundle.calibration()
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
        """Returns the bytes of the file `name`, which the manifest lists."""
        return self.contents[name]

    def golden(self) -> dict[str, np.ndarray]:
        """Returns the golden arrays, finite float32.

        They are obs (n, obs_dim), noise (n, latent_dim) and action (n, horizon, act_dim). A policy
        with memory also has state and next_state (n, state_dim): its rows are episodes one after
        the other, and an episode begins with a state of zeros.
        """
        return _read_golden(self.read(GOLDEN), self.manifest)

    def calibration(self) -> Any:
        """Returns the parsed calibration.json, or None if the bundle has none."""
        if CALIBRATION not in self.manifest.files:
            return None
        return parse_json(self.read(CALIBRATION), CALIBRATION)


def graph_name(precision: Precision) -> str:
    """Returns the graph's file: policy.onnx for fp32, else policy-fp16.onnx or policy-int8.onnx."""
    return ONNX if precision == "fp32" else f"policy-{precision}.onnx"


def extend(bundle: Bundle, extra_files: Mapping[str, bytes], parity: Mapping[str, Any]) -> Bundle:
    """Returns the bundle after adding to its folder. Everything else in the folder stays.

    At every moment the folder holds a whole bundle, with the additions or without them.

    Args:
        bundle: The bundle.
        extra_files: Files to add or replace, by name.
        parity: Entries of the manifest's `parity` to add or replace.

    Raises:
        BundleError: The parts do not fit together, or the folder cannot take them.
    """
    check_extendable(bundle)
    old = bundle.manifest
    require_names(extra_files)
    contents = {**bundle.contents, **extra_files}
    new = replace(old, files=_hashes(contents), parity={**old.parity, **parity})
    Bundle._checked(bundle.path, _manifest_bytes(new), contents)
    changed = {name for name in extra_files if old.files.get(name) != new.files[name]}
    kept = {name: found for name, found in old.files.items() if name not in changed}
    try:
        if len(kept) < len(old.files):
            write_atomic(bundle.path / MANIFEST, _manifest_bytes(replace(old, files=kept)))
        for name in changed:
            write_atomic(bundle.path / name, contents[name])
        write_atomic(bundle.path / MANIFEST, _manifest_bytes(new))
    except OSError as error:
        raise BundleError(f"cannot write into {bundle.path}: {error}") from error
    return Bundle.load(bundle.path)


def check_extendable(bundle: Bundle) -> None:
    """Checks that `extend` can write into a bundle's folder.

    Raises:
        BundleError: Its files are links, so that it belongs to what made them; it has changed since
            it was loaded; or the folder is read-only.
    """
    path = bundle.path
    if linked := links(path, bundle.manifest):
        raise BundleError(
            f"{path} is not written into: {', '.join(linked)} are links to files elsewhere; "
            f"copy it first: cp -rL {path} COPY"
        )
    if Bundle.load(path).hash != bundle.hash:
        raise BundleError(f"{path} has changed since it was read; start again")
    if not os.access(path, os.W_OK):
        raise BundleError(f"{path} cannot be written into: it is read-only; copy it first")


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
            action (batch, horizon, act_dim). With memory, also state (batch, state_dim) to
            next_state (batch, state_dim).
        golden: The arrays that `Bundle.golden` describes. A server computes them again before it
            serves.
        extra_files: More files by name, like calibration.json.

    Raises:
        BundleError: The parts do not fit together, or `check_replaceable` refuses `path`.
    """
    path = Path(path)
    contents = {**(extra_files or {}), ONNX: onnx_bytes, GOLDEN: _golden_bytes(golden)}
    require_names(contents)
    old = check_replaceable(path)
    raw = _manifest_bytes(replace(manifest, files=_hashes(contents)))
    try:
        Bundle._checked(path, raw, contents)
        # manifest.json comes last: without it a folder is no bundle
        replace_folder(path, {**contents, MANIFEST: raw}, old)
    except (BundleError, OSError) as error:
        raise BundleError(f"bundle {path} not written: {error}") from error
    return Bundle.load(path)


def _hashes(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256(data) for name, data in contents.items()}


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
    if manifest.state_dim:
        shapes |= dict.fromkeys(("state", "next_state"), (manifest.state_dim,))
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
    if manifest.state_dim:
        _check_episodes(arrays["state"], arrays["next_state"])
    return arrays


def _check_episodes(state: np.ndarray, next_state: np.ndarray) -> None:
    """Raises BundleError unless every row begins an episode or goes on where the last one ended."""
    goes_on = np.zeros(len(state), bool)
    goes_on[1:] = (state[1:] == next_state[:-1]).all(axis=1)
    broken = np.flatnonzero(state.any(axis=1) & ~goes_on)
    if len(broken):
        raise BundleError(
            f"{GOLDEN} state of row {broken[0]} is neither zeros nor the next_state of the row "
            "before; expected whole episodes, one after the other"
        )


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
