"""Looks into run folders, and stops trainings as a signal does."""

import os
import signal

import torch

from edp_robot.training.checkpoint import flatten, load_tree
from edp_robot.training.train_loop import Loop


def checkpoint(run):
    """Returns the tree of a run's checkpoint."""
    return load_tree(run / "checkpoint.safetensors")


def differing(one, other):
    """Returns the names of the tensors in which the checkpoints of two runs differ."""
    first = _tensors(one)
    second = _tensors(other)
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def _tensors(run):
    tree = {name: part for name, part in checkpoint(run).items() if name != "progress"}
    return flatten(tree)[0]


def stop_after(monkeypatch, n):
    """Makes the loop receive SIGINT in its n-th decision."""
    decision = Loop.decision
    count = []

    def counted(self):
        count.append(1)
        if len(count) == n:
            os.kill(os.getpid(), signal.SIGINT)
        return decision(self)

    monkeypatch.setattr(Loop, "decision", counted)
