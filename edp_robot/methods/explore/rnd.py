"""Random network distillation (Burda et al., arXiv 1810.12894)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edp_robot.diffusion.networks import mlp
from edp_robot.engine import Adam
from edp_robot.methods.explore.intrinsic_reward import INTRINSIC_REWARDS, IntrinsicReward
from edp_robot.methods.explore.novelty import novelty_columns
from edp_robot.methods.ranges import NotNegative, Ranged
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class RNDConfig(Ranged):
    """Sizes of the two networks and the predictor's learning rate.

    The networks see the observation fields named in `fields`, or all of them if it is empty.
    """

    width: int = 256
    out_dim: int = 64
    learning_rate: NotNegative = 1e-4
    fields: tuple[str, ...] = ()


@INTRINSIC_REWARDS.register("rnd")
class RND(IntrinsicReward):
    """R(s) = ||f(s) - g(s)||^2 / out_dim, where g is fixed and random and f learns g.

    f learns on visited states, so its error is larger on states that were not visited.
    """

    Config = RNDConfig
    recordable = True
    columns: Tensor

    def __init__(self, spec: TaskSpec, config: RNDConfig, **learners: Any) -> None:
        super().__init__(spec, config, **learners)
        columns = novelty_columns(spec, config.fields)
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        sizes = [len(columns), config.width, config.width, config.out_dim]
        self.predictor = mlp(sizes, layer_norm=False, stack=(self.n_seeds,))
        self.target = mlp(sizes, layer_norm=False, stack=(self.n_seeds,)).requires_grad_(False)
        self.optimizer = Adam(self.predictor.parameters(), config.learning_rate)

    def _error(self, obs: Tensor) -> Tensor:
        x = obs[..., self.columns]
        return (self.predictor(x) - self.target(x)).square().mean(-1)

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step of the predictor on visited states; returns the loss (n_seeds,)."""
        loss = self._error(obs).mean(-1)
        self.optimizer.descend(loss)
        return {"rnd_loss": loss.detach()}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns the prediction error (n_seeds, batch)."""
        return self._error(obs)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the predictor's optimizer."""
        return {"rnd": self.optimizer}
