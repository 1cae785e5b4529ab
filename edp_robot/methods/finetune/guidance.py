"""Energy guidance by contrastive energy prediction, and its distillation into one noise model (method Eq. 9, 10)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edp_robot.diffusion.losses import contrastive_energy_loss
from edp_robot.diffusion.networks import FourierTime, NoiseModel, mlp
from edp_robot.diffusion.schedule import add_noise, alpha_sigma, sample_t


@dataclass(frozen=True)
class GuidanceConfig:
    """Sizes of the guidance network (method section 3)."""

    width: int = 256
    n_layers: int = 4
    learning_rate: float = 3e-4


class Guidance(nn.Module):
    """The energy f(s, a_t, t) = log E[exp(Q(s, a_0) / beta) | a_t] up to a constant a state."""

    def __init__(self, obs_dim: int, act_dim: int, config: GuidanceConfig) -> None:
        super().__init__()
        self.time = FourierTime(32, 32, scale=1.0, activation="silu")
        self.net = mlp(
            [obs_dim + act_dim + 32, *[config.width] * config.n_layers, 1], layer_norm=False
        )
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate, fused=True)

    def forward(self, obs: Tensor, a_t: Tensor, t: Tensor) -> Tensor:
        """Returns f (...,) for obs (..., obs_dim), a_t (..., act_dim), t broadcasting to (...,)."""
        time = self.time(t).expand(*a_t.shape[:-1], -1)
        return self.net(torch.cat([obs, a_t, time], -1)).squeeze(-1)

    def gradient(self, obs: Tensor, a_t: Tensor, t: Tensor) -> Tensor:
        """Returns grad_{a_t} f (batch, act_dim); what shifts the score."""
        with torch.enable_grad():
            a_t = a_t.detach().requires_grad_(True)
            return torch.autograd.grad(self(obs, a_t, t).sum(), a_t)[0]

    def update(self, obs: Tensor, actions: Tensor, q: Tensor, inverse_temp: float) -> float:
        """One grad_step of Eq. 9; returns the loss.

        obs (batch, obs_dim); actions (batch, K, act_dim) drawn from pi_d(.|s), as the paper has it (the authors' code
        draws from the fine-tuned model); q (batch, K). One t a state, noise of its own for every action.
        """
        t = sample_t(len(obs), obs.device).unsqueeze(-1)
        a_t = add_noise(actions, torch.randn_like(actions), t)
        f = self(obs.unsqueeze(1).expand(-1, actions.shape[1], -1), a_t, t)
        loss = contrastive_energy_loss(q, f, inverse_temp)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def guided_noise(
    reference: NoiseModel, guidance: Guidance, obs: Tensor, a_t: Tensor, t: Tensor
) -> Tensor:
    """Returns eps_d - sigma_t grad f (batch, act_dim): the noise of pi_d exp(Q / beta) (method Eq. 7, 10)."""
    sigma = alpha_sigma(t)[1].unsqueeze(-1)
    with torch.no_grad():
        eps = reference(a_t, t, obs)
    return eps - sigma * guidance.gradient(obs, a_t, t)


def distillation_loss(
    model: NoiseModel, reference: NoiseModel, guidance: Guidance, obs: Tensor, actions: Tensor
) -> Tensor:
    """Returns the mean of ||eps_psi - (eps_d - sigma_t grad f)||^2 / act_dim, a scalar.

    That is Eq. 10: scores are -eps / sigma, so its weight sigma_t^2 leaves the plain difference of noises (the
    authors' code is left with 1 / sigma too much). obs (batch, obs_dim), actions (batch, act_dim) to be noised.
    """
    t = sample_t(len(obs), obs.device)
    a_t = add_noise(actions, torch.randn_like(actions), t)
    target = guided_noise(reference, guidance, obs, a_t, t).detach()
    return (model(a_t, t, obs) - target).square().mean()
