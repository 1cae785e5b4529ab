"""Random network distillation (Burda et al., arXiv 1810.12894): the error of predicting a fixed random network."""

from __future__ import annotations

import torch
from torch import Tensor

from edp_robot.diffusion.networks import mlp
from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward


class RND(IntrinsicReward):
    """R(s) = ||f(s) - g(s)||^2 / dim: g is fixed and random, f learns g on the states that were visited."""

    def __init__(
        self,
        obs_dim: int,
        *,
        n_seeds: int = 1,
        width: int = 256,
        out_dim: int = 64,
        learning_rate: float = 1e-4,
        centre: bool = False,
    ) -> None:
        super().__init__(n_seeds, centre)
        sizes = [obs_dim, width, width, out_dim]
        self.predictor = mlp(sizes, layer_norm=False, stack=(n_seeds,))
        self.target = mlp(sizes, layer_norm=False, stack=(n_seeds,)).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr=learning_rate, fused=True)

    def _error(self, obs: Tensor) -> Tensor:
        return (self.predictor(obs) - self.target(obs)).square().mean(-1)

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """One grad_step of the predictor on visited states; returns the loss (n_seeds,)."""
        loss = self._error(obs).mean(-1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.optimizer.step()
        return {"rnd_loss": loss.detach()}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns the prediction error (n_seeds, batch)."""
        return self._error(obs)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the predictor's."""
        return {"rnd": self.optimizer}
