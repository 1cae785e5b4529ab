"""The run folder: config before step 0, metrics as they come, checkpoints that survive a kill. No pickle."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = 1


def config_dict(config: Any) -> dict:
    """Returns a (nested) dataclass as plain JSON values."""
    return json.loads(
        json.dumps(
            asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
        )
    )


def from_dict(cls: type, values: dict) -> Any:
    """Returns the dataclass `cls` from what `config_dict` made; nested dataclasses and tuples come back as such."""
    hints = get_type_hints(cls)
    made = {}
    for key, value in values.items():
        if is_dataclass(hints[key]):
            value = from_dict(hints[key], value)  # type: ignore[arg-type]
        made[key] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


def config_hash(config: Any) -> str:
    """Returns the sha256 of the config's canonical JSON."""
    return hashlib.sha256(json.dumps(config_dict(config), sort_keys=True).encode()).hexdigest()


def source_commit() -> str:
    """Returns the git commit that this code stands at, with '+' if a Python file was changed since, or 'unknown'."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = [
            "git",
            "status",
            "--porcelain",
            "-uno",
            "--",
            ":(top)*.py",
        ]  # results written since are not the code
        dirty = subprocess.run(changed, cwd=here, capture_output=True, text=True)
        return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Returns (tensors by path, the tree with each tensor replaced by its path); leaves else must be JSON values."""
    if isinstance(tree, np.ndarray):
        tree = torch.from_numpy(tree)
    if isinstance(tree, Tensor):
        return {prefix: tree.detach().cpu().contiguous().clone()}, {"tensor": prefix}
    if isinstance(tree, dict):
        if slashed := [k for k in tree if "/" in str(k)]:
            raise ValueError(f"keys {slashed} hold '/', which separates levels; rename them")
        parts = {str(k): flatten(v, f"{prefix}/{k}") for k, v in tree.items()}
        keys = [
            [k, parts[str(k)][1]] for k in tree
        ]  # pairs keep integer keys (optimizers) and order
        return {n: t for p, _ in parts.values() for n, t in p.items()}, {"dict": keys}
    if isinstance(tree, (list, tuple)):
        parts_list = [flatten(v, f"{prefix}/{i}") for i, v in enumerate(tree)]
        return {n: t for p, _ in parts_list for n, t in p.items()}, {
            "list": [s for _, s in parts_list]
        }
    return {}, {"value": tree}


def unflatten(tensors: dict[str, Tensor], shape: Any) -> Any:
    """Undoes `flatten`."""
    (kind, body), *_ = shape.items()
    if kind == "tensor":
        return tensors[body]
    if kind == "dict":
        return {k: unflatten(tensors, v) for k, v in body}
    return [unflatten(tensors, v) for v in body] if kind == "list" else body


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a kill, sees the old content or the new, never a part."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tmp.write_bytes(data)
    tmp.replace(path)


def save_tree(path: Path, tree: Any) -> None:
    """Writes a tree of tensors and JSON values as one safetensors file, atomically."""
    tensors, shape = flatten(tree)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(tensors, tmp, metadata={"format": str(FORMAT), "tree": json.dumps(shape)})
    tmp.replace(path)


def load_tree(path: Path) -> Any:
    """Returns what `save_tree` wrote.

    Raises:
        FileNotFoundError, ValueError: no such file; not one of ours.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no checkpoint at {path}; give a run folder that `edp pretrain` or `finetune` wrote"
        )
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != str(FORMAT):
                raise ValueError(
                    f"{path}: checkpoint format {meta.get('format')!r}, this version reads {FORMAT}"
                )
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  safe_open is no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no checkpoint: {error}") from error
    return unflatten(tensors, json.loads(meta["tree"]))


class Run:
    """One run folder: `config.json`, `metrics.csv`, TensorBoard events, `checkpoint.safetensors`.

    Args:
        path: the folder, made if missing.
        config: a dataclass; written before anything else.
        resume: go on from the checkpoint there; the config must be the same.

    Raises:
        FileExistsError: the folder holds a run and `resume` is False.
        ValueError: resuming with another config.
    """

    def __init__(self, path: str | Path, config: Any, resume: bool = False) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        wanted = {
            "kind": type(config).__name__,
            "config": config_dict(config),
            "hash": config_hash(config),
        }
        if self.config_path.exists():
            held = json.loads(self.config_path.read_text())
            if not resume:
                raise FileExistsError(
                    f"{self.path} holds a run already; add --resume, or choose another --out"
                )
            if held["hash"] != wanted["hash"]:
                changed = [k for k, v in wanted["config"].items() if held["config"].get(k) != v]
                raise ValueError(
                    f"{self.path} was started with another config (differs in {changed}); cannot resume"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(
            self.config_path, json.dumps({**wanted, "commit": source_commit()}, indent=1).encode()
        )
        self._writer = None

    @property
    def checkpoint_path(self) -> Path:
        """Where the newest checkpoint lies."""
        return self.path / "checkpoint.safetensors"

    def log(self, env_step: int, metrics: dict[str, float]) -> None:
        """Appends rows (env_step, name, value) to metrics.csv, and to TensorBoard's events."""
        path = self.path / "metrics.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["env_step", "name", "value"])
            writer.writerows([env_step, k, repr(float(v))] for k, v in metrics.items())
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path))
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, env_step)

    def truncate(self, env_step: int) -> None:
        """Drops metrics later than `env_step`: a resumed run writes them again."""
        path = self.path / "metrics.csv"
        if path.exists():
            rows = [
                r
                for r in csv.reader(path.read_text().splitlines())
                if len(r) == 3 and r[0].isdigit()
            ]
            kept = [["env_step", "name", "value"], *(r for r in rows if int(r[0]) <= env_step)]
            write_atomic(path, "".join(",".join(r) + "\n" for r in kept).encode())

    def close(self) -> None:
        """Flushes TensorBoard's events."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_config(path: str | Path) -> dict:
    """Returns config.json of a run folder.

    Raises:
        FileNotFoundError: not a run folder.
    """
    file = Path(path) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{path} is no run folder: it has no config.json")
    return json.loads(file.read_text())


def read_metrics(path: str | Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env_steps, values) of one metric of a run folder."""
    rows = [
        r for r in csv.reader((Path(path) / "metrics.csv").open()) if len(r) == 3 and r[1] == name
    ]
    return np.array([int(r[0]) for r in rows]), np.array([float(r[2]) for r in rows])
