"""EDP's intrinsic reward with the best possible noise model, in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward
from edp_robot.methods.explore.novelty import novelty_columns
from edp_robot.methods.explore.resolution import Resolution
from edp_robot.methods.explore.ring import Ring
from edp_robot.methods.explore.score_config import ScoreRewardConfig
from sim.core.spec import TaskSpec


class ExactScoreReward(IntrinsicReward):
    """R(s) = -log p_t(s) at t = t_low, which method Eq. 5 bounds, for the newest states drawn.

    A diffusion that is trained to perfection on states s_1 ... s_n has the noise model

        eps_hat(x, t) = (x - alpha m(x)) / sigma
        m = sum_i w_i s_i,   w = softmax_i(-||x - alpha s_i||^2 / 2 sigma^2)

    Integrating its errors in Eq. 5 evenly in log_snr, from infinite noise down to t_low, gives

        p_t(s) = 1/n sum_i Normal(s; s_i, (sigma_t / alpha_t)^2)

    The sum leaves out the states of the last update, because s may be one of them. It also holds
    `pseudo_count` times Normal(s; s, ...), so that a state near no other pays a finite amount.

    The integral needs no draws and the model no training: it knows a state as soon as the state is
    drawn, where a network takes some hundred grad_steps, and it does not blur walls. sigma / alpha
    is the resolution in units of the normalised observation.
    With `n_neighbours` above 0 it follows the data (`Resolution`).
    """

    Config = ScoreRewardConfig
    recordable = True
    columns: Tensor

    def __init__(self, spec: TaskSpec, config: ScoreRewardConfig, **learners: Any) -> None:
        super().__init__(spec, config, **learners)
        columns = novelty_columns(spec, config.fields)
        self.resolution = Resolution(self.n_seeds, config.t_low, config.n_neighbours)
        self.pseudo_count = config.pseudo_count
        self.ring = Ring(self.n_seeds, config.n_states, len(columns))
        self.register_buffer("columns", torch.tensor(columns))

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Adds visited states; learns nothing.

        Raises:
            ValueError: They fill the ring, so that no older state is left to compare with.
        """
        if obs.shape[-2] >= self.ring.size:
            raise ValueError(
                f"batch of {obs.shape[-2]} states, and n_states={self.ring.size} are held: "
                "all would be the newest, and no older state would be left to compare with; "
                "give a larger reward.n_states, or a smaller batch"
            )
        visited = obs[..., self.columns]
        self.ring.add(visited)
        self.resolution.follow(self.ring, visited)
        return {}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns -log p_t(s) (n_seeds, batch); 0 while there is nothing to compare with."""
        x = obs[..., self.columns]
        precision = self.resolution.precision()
        exponent = self.ring.exponents(x, precision)
        largest = exponent.amax(-1, keepdim=True)
        # e^-80 is nothing beside the 1 in the sum. Without the clamp, exp meets denormal numbers
        # and takes ten times as long.
        total = exponent.sub_(largest).clamp_(min=-80).exp_().sum(-1).log() + largest.squeeze(-1)
        total = total - 0.5 * precision * x.square().sum(-1)
        log_sum = torch.logaddexp(total, torch.full_like(total, math.log(self.pseudo_count)))
        n_older = self.ring.n_older()
        scale = len(self.columns) * (self.resolution.log_std + 0.5 * math.log(math.tau))
        constant = n_older.clamp(min=1).log() + scale
        return torch.where(n_older > 0, constant - log_sum, 0.0)
