"""EDP's own intrinsic reward: how badly a diffusion model of the visited states predicts the noise on this one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion.losses import denoising_loss
from ..diffusion.networks import NoiseModel
from ..diffusion.schedule import add_noise, sample_t


class ScoreReward(nn.Module):
    """R(s) = E_{t, eps} ||eps'(s_t, t) - eps||^2 (method Eq. 5), divided by a running standard deviation.

    We depart from the authors' code (method sections 4 and 7): evaluation without dropout; t stratified in
    [t_low, t_high], where states differ; eps antithetic; and one set of (t, eps) for the whole batch, fresh at each
    call, so that the noise of the estimate cancels between states.

    Args:
        model: noise model over the `columns` of the normalised observation.
        columns: indices of the observation that novelty is measured on.
        n_draws: network calls a state (K), even.
        learning_rate: of Adam.
    """

    columns: Tensor
    mean_square: Tensor
    mean: Tensor
    n_updates: Tensor

    def __init__(
        self,
        model: NoiseModel,
        columns: list[int],
        *,
        n_draws: int = 4,
        learning_rate: float = 1e-4,
        t_low: float = 0.05,
        t_high: float = 0.6,
        centre: bool = False,
    ) -> None:
        super().__init__()
        if n_draws < 2 or n_draws % 2:
            raise ValueError(f"n_draws={n_draws}: antithetic noise comes in pairs; give an even number")
        self.model, self.n_draws, self.t_range = model, n_draws, (t_low, t_high)
        self.centre = centre
        self.register_buffer("columns", torch.tensor(columns))
        self.register_buffer("mean_square", torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("n_updates", torch.tensor(0.0))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)

    def update(self, obs: Tensor) -> dict[str, float]:
        """One grad_step of method Eq. 4's first term on observations (batch, obs_dim); returns the loss."""
        self.model.train()
        loss = denoising_loss(self.model, obs[:, self.columns])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"state_loss": loss.item()}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns method Eq. 5 (batch,), not yet scaled: the mean squared error a dimension, over n_draws draws."""
        self.model.eval()
        x0 = obs[:, self.columns]
        half = self.n_draws // 2
        t = sample_t(half, obs.device, *self.t_range).repeat(2)
        eps = torch.randn(half, x0.shape[1], device=obs.device)
        eps = torch.cat([eps, -eps])
        x_t = add_noise(x0.unsqueeze(1), eps, t)  # (batch, n_draws, dim)
        return (self.model(x_t, t) - eps).square().mean((1, 2))

    @torch.no_grad()
    def reward(self, obs: Tensor) -> Tensor:
        """Returns Eq. 5 over its running standard deviation (batch,); minus its running mean where asked."""
        error = self.error(obs)
        self.n_updates += 1
        rate = torch.clamp(1 / self.n_updates, min=0.01)
        self.mean += rate * (error.mean() - self.mean)
        self.mean_square += rate * (error.square().mean() - self.mean_square)
        std = (self.mean_square - self.mean.square()).clamp(min=1e-8).sqrt()
        return (error - self.mean) / std if self.centre else error / std
