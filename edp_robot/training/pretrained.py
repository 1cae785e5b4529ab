"""One learner of a pre-training run: its weights and its replay, cut out of the stack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edp_robot.diffusion.networks import unstacked
from edp_robot.training.runs import load_tree, read_config

STACKED = ("ddpg.", "action_model.")


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the weights under `prefix.`, without it.

    Raises:
        KeyError: there are none.
    """
    found = {k[len(prefix) + 1 :]: v for k, v in weights.items() if k.startswith(prefix + ".")}
    if not found:
        raise KeyError(
            f"the checkpoint has no {prefix!r}; it holds {sorted({k.split('.')[0] for k in weights})}"
        )
    return found


@dataclass(frozen=True)
class Pretrained:
    """Weights by name, as of one network each; replay as `Replay.state` returns it, of one learner's environments."""

    weights: dict[str, Tensor]
    replay: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Returns the weights under `prefix.`, without it; raises KeyError where there are none."""
        return part(self.weights, prefix)


def load_pretrained(run: str | Path, index: int = 0) -> Pretrained:
    """Returns learner `index` of a pre-training run.

    Raises:
        FileNotFoundError: `run` holds no checkpoint. ValueError: it is no pre-training, or has no such learner.
    """
    held = read_config(run)
    if held["kind"] != "PretrainConfig":
        raise ValueError(
            f"{run} is a {held['kind']}, not a pre-training; give a run of `edp pretrain`"
        )
    n_seeds = held["config"]["n_seeds"]
    if not 0 <= index < n_seeds:
        raise ValueError(f"{run} has {n_seeds} seeds, 0 to {n_seeds - 1}; there is no seed {index}")
    saved = load_tree(Path(run) / "checkpoint.safetensors")
    stacked = {k: v for k, v in saved["learner"].get("model", {}).items() if k.startswith(STACKED)}
    own = {
        k: v for k, v in saved["learner"].get("model", {}).items() if k.startswith("normaliser.")
    }
    weights = own | (unstacked(stacked, index) if stacked else {})
    arrays = saved["replay"]["arrays"]
    width = arrays["obs"].shape[1] // n_seeds
    mine = {k: v[:, index * width : (index + 1) * width] for k, v in arrays.items()}
    return Pretrained(weights, {**saved["replay"], "arrays": mine})
