"""Supervised training in chunks, for distillation and cloning. Every tenth chunk is saved."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from tqdm import trange

from edp_robot.training.checkpoint import load_tree
from edp_robot.training.devices import CPU, random_state, set_random_state
from edp_robot.training.runs import Run


class Chunked(Protocol):
    """What is trained."""

    def chunk(self) -> dict[str, float]:
        """Trains one chunk; returns metrics."""
        ...

    def state(self) -> dict[str, Any]:
        """Returns a tree of tensors and JSON values for the checkpoint."""
        ...

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        ...


def train_in_chunks(run: Run, trainer: Chunked, n_chunks: int, title: str, resume: bool) -> None:
    """Trains the chunks that are missing; logs each, saves every tenth and the last.

    Args:
        run: The run folder.
        trainer: What is trained.
        n_chunks: Chunks in all.
        title: Title of the progress bar.
        resume: Whether to go on from the folder's checkpoint.

    Raises:
        KeyboardInterrupt: SIGINT came. The last checkpoint stays.
    """
    first = restore(run, trainer) if resume else 0
    if first >= n_chunks:
        run.say_done(first)
    else:
        run.go_on()
    try:
        for i in trange(first, n_chunks, desc=title, unit="chunk", disable=None):
            run.log(i, trainer.chunk())
            if i % 10 == 9 or i == n_chunks - 1:
                held = {"torch_rng": random_state(CPU), "n_chunks": i + 1}
                run.save({**trainer.state(), **held})
    except KeyboardInterrupt:
        saved = run.checkpoint_path
        print(f"\ninterrupted: the last checkpoint is {saved}; --resume goes on from there")
        raise
    finally:
        run.close()


def restore(run: Run, trainer: Chunked) -> int:
    """Restores the run folder's checkpoint; returns the chunks done."""
    if not run.checkpoint_path.exists():
        run.truncate(-1)
        return 0
    saved = load_tree(run.checkpoint_path)
    trainer.load(saved)
    held = saved["torch_rng"]  # an older version saved torch's alone
    set_random_state({"cpu": held} if isinstance(held, torch.Tensor) else held, CPU)
    run.truncate(saved["n_chunks"] - 1)
    return saved["n_chunks"]


def cosine_rate(rate: float, done: float) -> float:
    """Returns the learning rate of a cosine from `rate` down to a hundredth of it.

    Args:
        rate: Learning rate at the start.
        done: Share of the training that is over.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return rate * max(0.01, cosine)
