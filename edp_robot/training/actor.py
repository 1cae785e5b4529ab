"""A torch policy as `sim.core.evaluate` wants it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sim.core.evaluate import ActFn


def torch_actor(policy: nn.Module, seed: int) -> ActFn:
    """Returns an ActFn that draws noise from its own generator and runs the policy without gradients."""
    generator = torch.Generator().manual_seed(seed)
    policy.eval()

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        noise = torch.randn(len(obs), policy.latent_dim, generator=generator)  # type: ignore[arg-type]
        return policy(torch.from_numpy(np.ascontiguousarray(obs)), noise).numpy()

    return act
