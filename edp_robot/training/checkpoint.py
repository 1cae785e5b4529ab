"""Checkpoints: a tree of tensors and JSON values as one safetensors file. No pickle."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from policy_server.contract.disk.files import replacing

FORMAT = 1


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Returns the tensors by path, and the tree with each tensor replaced by its path.

    Dicts become lists of pairs, which keeps their order and integer keys (optimizers have them).

    Raises:
        ValueError: A key holds "/", which separates levels.
    """
    if isinstance(tree, np.ndarray):
        tree = torch.from_numpy(tree)
    if isinstance(tree, Tensor):
        return {prefix: tree.detach().cpu().contiguous().clone()}, {"tensor": prefix}
    if isinstance(tree, dict):
        if slashed := [k for k in tree if "/" in str(k)]:
            raise ValueError(f"keys {slashed} hold '/', which separates levels; rename them")
        parts = [flatten(value, f"{prefix}/{key}") for key, value in tree.items()]
        shape = {"dict": [[key, part] for key, (_, part) in zip(tree, parts, strict=True)]}
    elif isinstance(tree, (list, tuple)):
        parts = [flatten(value, f"{prefix}/{i}") for i, value in enumerate(tree)]
        shape = {"list": [part for _, part in parts]}
    else:
        return {}, {"value": tree}
    return {name: tensor for tensors, _ in parts for name, tensor in tensors.items()}, shape


def unflatten(tensors: dict[str, Tensor], shape: Any) -> Any:
    """Returns the tree that `flatten` took apart."""
    (kind, body), *_ = shape.items()
    if kind == "tensor":
        return tensors[body]
    if kind == "dict":
        return {key: unflatten(tensors, value) for key, value in body}
    return [unflatten(tensors, value) for value in body] if kind == "list" else body


def save_tree(path: Path, tree: Any) -> None:
    """Writes a tree of tensors and JSON values as one file, atomically.

    Raises:
        DiskFull: There is no space. OSError: The file cannot be written. The old one stays.
    """
    tensors, shape = flatten(tree)
    metadata = {"format": str(FORMAT), "tree": json.dumps(shape)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(int(found[1]) if found else errno.EIO, f"{path}: {error}") from error


def load_tree(path: Path) -> Any:
    """Returns what `save_tree` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or something else than a checkpoint of this format.
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
            names = list(file.keys())  # safe_open is no dict
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no checkpoint: {error}") from error
    return unflatten(tensors, json.loads(meta["tree"]))
