"""Losses of noise models, of value functions (expectiles), and of guidance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edp_robot.diffusion.schedule import add_noise, sample_t


def denoising_loss(
    model: nn.Module, x0: Tensor, condition: Tensor | None = None, t: Tensor | None = None
) -> Tensor:
    """Returns the mean of ||eps_hat(x_t, t | condition) - eps||^2 / dim (stack) (method Eq. 4).

    Args:
        model: The noise model, or a stack of them.
        x0: Data (*stack, batch, dim).
        condition: What the data depends on (*stack, batch, cond_dim), or None.
        t: Times (batch,). None: stratified over the batch, which has the expectation of iid draws
            with less variance.
    """
    t = sample_t(x0.shape[-2], x0.device) if t is None else t
    eps = torch.randn_like(x0)
    return (model(add_noise(x0, eps, t), t, condition) - eps).square().mean((-2, -1))


def expectile_loss(u: Tensor, expectile: float) -> Tensor:
    """Returns the mean of |expectile - 1(u < 0)| u^2, a scalar (method Eq. 8)."""
    weight = torch.where(u < 0, 1 - expectile, expectile)
    return (weight * u.square()).mean()


def contrastive_energy_loss(q: Tensor, f: Tensor, inverse_temp: float) -> Tensor:
    """Returns the mean over states of -sum_i softmax_i(q inverse_temp) log softmax_i(f) (Eq. 9).

    Its minimum is f = log E[exp(q inverse_temp) | a_t], up to a constant for each state.

    Args:
        q: Values (batch, K) of K actions drawn from the reference policy.
        f: Energies (batch, K) that the guidance gives the same actions, noised to one t a state.
        inverse_temp: How strongly better actions are preferred.
    """
    target = torch.softmax(q * inverse_temp, -1)
    return -(target * torch.log_softmax(f, -1)).sum(-1).mean()
