"""Networks made from a task's spec and a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from edp_robot.diffusion.networks import NoiseModel, Normaliser, Stack
from edp_robot.methods.ranges import Natural, NotNegative, Range, Ranged
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class NoiseModelConfig(Ranged):
    """Sizes of a noise model and its learning rate (method section 2).

    `n_features` counts the Fourier features of the noised vector. Their frequencies go up to
    `feature_scale` [cycles per unit].
    """

    width: int = 256
    inner: int = 1024
    n_blocks: int = 3
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.1
    learning_rate: NotNegative = 1e-4
    activation: Literal["mish", "silu"] = "mish"
    n_features: Natural = 0
    feature_scale: float = 1.0
    time_dim: int = 128


NO_LIMIT = 1e30  # limits from here on, like float32's largest number, stand for none
SMALL = NoiseModelConfig(
    width=64, inner=128, n_blocks=2, dropout=0.0, learning_rate=3e-4, activation="silu"
)


def normaliser(spec: TaskSpec) -> Normaliser:
    """Returns the map of the spec's limits to [-1, 1]; elements without limits pass unchanged.

    Training starts with it, and `obs_statistics` replaces the limits that are not real.
    """
    low, high = spec.obs_limits()
    known = has_limits(spec)
    low = np.where(known, low, -1.0)
    high = np.where(known, high, 1.0)
    scale = np.maximum((high - low) / 2, 1e-6)
    return Normaliser(torch.tensor((low + high) / 2), torch.tensor(scale))


def has_limits(spec: TaskSpec) -> np.ndarray:
    """Returns which elements of the obs have two limits below NO_LIMIT (obs_dim,)."""
    low, high = np.abs(spec.obs_limits())
    return (low < NO_LIMIT) & (high < NO_LIMIT)


def noise_model(dim: int, cond_dim: int, config: NoiseModelConfig, stack: Stack = ()) -> NoiseModel:
    """Returns a noise model of the configured sizes.

    Args:
        dim: Length of the vector that is noised.
        cond_dim: Length of the condition. 0: there is none.
        config: Sizes.
        stack: Leading axes of every parameter, one network for each index.
    """
    sizes = {name: value for name, value in vars(config).items() if name != "learning_rate"}
    return NoiseModel(dim, cond_dim, stack=stack, **sizes)
