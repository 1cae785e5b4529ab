"""Supervised training in chunks, resumable at any of them: distillation and cloning share it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from tqdm import trange

from edp_robot.training.runs import Run, load_tree, save_tree


class Chunked(Protocol):
    """What is trained."""

    def chunk(self) -> dict[str, float]:
        """Trains a little; returns metrics."""
        ...

    def state(self) -> dict[str, Any]:
        """Returns a tree of tensors and JSON values for the checkpoint."""
        ...

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        ...


def train_in_chunks(run: Run, trainer: Chunked, n_chunks: int, title: str, resume: bool) -> None:
    """Runs what is missing of `n_chunks`; logs each, saves every tenth and the last, torch's random state with it.

    Raises:
        KeyboardInterrupt: Ctrl-C; the last checkpoint stays.
    """
    first = restore(run, trainer) if resume else 0
    try:
        for i in trange(first, n_chunks, desc=title, unit="chunk", disable=None):
            run.log(i, trainer.chunk())
            if i % 10 == 9 or i == n_chunks - 1:
                held = {"torch_rng": torch.get_rng_state(), "n_chunks": i + 1}
                save_tree(run.checkpoint_path, {**trainer.state(), **held})
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: the last checkpoint is {run.checkpoint_path}; --resume goes on from there"
        )
        raise
    finally:
        run.close()


def restore(run: Run, trainer: Chunked) -> int:
    """Goes back to the checkpoint; returns the chunks done."""
    if not run.checkpoint_path.exists():
        return 0
    saved = load_tree(run.checkpoint_path)
    trainer.load(saved)
    torch.set_rng_state(saved["torch_rng"].to(torch.uint8))
    run.truncate(saved["n_chunks"] - 1)
    return saved["n_chunks"]


def set_cosine_rate(optimizer: torch.optim.Optimizer, rate: float, done: float) -> None:
    """Sets every learning rate: a cosine over `done` in [0, 1], from `rate` to a hundredth of it."""
    cosine = 0.5 * (1 + np.cos(np.pi * min(1.0, done)))
    for group in optimizer.param_groups:
        group["lr"] = rate * max(0.01, cosine)
