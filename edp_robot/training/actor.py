"""A torch policy in the form that `sim.core.evaluate` takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sim.core.evaluate import ActFn


def torch_actor(policy: nn.Module, seed: int) -> ActFn:
    """Returns an ActFn that runs the policy without gradients, with noise of its own generator."""
    generator = torch.Generator().manual_seed(seed)
    policy.eval()
    latent_dim = int(policy.latent_dim)  # type: ignore[arg-type]

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        noise = torch.randn(len(obs), latent_dim, generator=generator)
        return policy(torch.from_numpy(np.ascontiguousarray(obs)), noise).numpy()

    return act
