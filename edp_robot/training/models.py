"""Networks made from a task's spec and a configuration."""

from __future__ import annotations

import numpy as np
import torch

from edp_robot.config.schema import NoiseModelConfig
from edp_robot.diffusion.networks import NoiseModel, Normaliser, Stack
from sim.core.spec import TaskSpec


def normaliser(spec: TaskSpec) -> Normaliser:
    """Returns the map of the spec's limits to [-1, 1]; elements without limits pass unchanged."""
    low, high = spec.obs_limits()
    known = np.isfinite(low) & np.isfinite(high)
    centre = np.where(known, (np.where(known, low, 0) + np.where(known, high, 0)) / 2, 0.0)
    scale = np.where(known, (np.where(known, high, 2) - np.where(known, low, 0)) / 2, 1.0)
    return Normaliser(torch.tensor(centre), torch.tensor(np.maximum(scale, 1e-6)))


def noise_model(dim: int, cond_dim: int, config: NoiseModelConfig, stack: Stack = ()) -> NoiseModel:
    """Returns a noise model of the configured sizes, or a stack of them."""
    c = config
    sizes = (c.width, c.inner, c.n_blocks, c.dropout, c.activation)
    return NoiseModel(dim, cond_dim, *sizes, stack, c.n_features, c.feature_scale, c.time_dim)
