"""EDP's intrinsic reward with the best noise model there is, in closed form: no network, no draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edp_robot.diffusion.schedule import scalar_coefficients
from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward
from edp_robot.methods.explore.ring import Ring


class ExactScoreReward(IntrinsicReward):
    """R(s) = -log p_t(s) at t = t_low: what method Eq. 5 bounds, of the newest states that were drawn.

    A diffusion of the replay, once trained to perfection on a sample s_1 ... s_n of it, has the noise model

        eps_hat(x, t) = (x - alpha m(x)) / sigma,   m = sum_i w_i s_i,   w = softmax_i(-||x - alpha s_i||^2 / 2 sigma^2)

    and Eq. 5's errors of it, integrated evenly in log_snr from infinite noise down to t_low, give a log density:

        p_t(s) = 1/n sum_i Normal(s; s_i, (sigma_t / alpha_t)^2)

    A state is compared with all but those that came with the last update, of which it may be one. To the sum comes
    `pseudo_count` times Normal(s; s, ...): a state near no other pays a finite amount, the more the smaller it is.

    So the integral needs no draws, the model no training: it knows a state as soon as that is drawn from the replay,
    where a network takes some hundred grad_steps, and it does not blur walls. It is for observations of few
    dimensions: in many, every state of a sample is far from every other.

    Args:
        columns: indices of the observation that novelty is measured on.
        t_low: noise level in (0, 1); sigma / alpha is the resolution, in units of the normalised observation.
        n_states: how many are held (n, and those of the last update).
        pseudo_count: as how many a state counts that is near no other; above 0.
    """

    columns: Tensor

    def __init__(
        self,
        columns: list[int],
        *,
        t_low: float,
        n_states: int = 1024,
        pseudo_count: float = 0.1,
        n_seeds: int = 1,
        centre: bool = False,
    ) -> None:
        super().__init__(n_seeds, centre)
        if not 0 < t_low < 1 or n_states < 1:
            raise ValueError(
                f"t_low={t_low}, n_states={n_states}: give a noise level in (0, 1), and 1 state or more"
            )
        if not pseudo_count > 0:
            raise ValueError(
                f"pseudo_count={pseudo_count}: give a number above 0; at 0 a new state's reward is unbounded"
            )
        alpha, sigma, _ = scalar_coefficients(t_low)
        self.std, self.pseudo_count = sigma / alpha, pseudo_count
        self.ring = Ring(n_seeds, n_states, len(columns))
        self.register_buffer("columns", torch.tensor(columns))

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Takes visited states in; nothing is learned.

        Raises:
            ValueError: they fill the ring, so that nothing is left to compare them with.
        """
        if obs.shape[-2] >= self.ring.size:
            raise ValueError(
                f"batch of {obs.shape[-2]} states, and n_states={self.ring.size} are held: all would be the newest and "
                "nothing be paid; give a larger score_reward.n_states, or a smaller batch"
            )
        self.ring.add(obs[..., self.columns])
        return {}

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns -log p_t(s) (n_seeds, batch); 0 while there is nothing to compare with."""
        x, states, ring, precision = (
            obs[..., self.columns],
            self.ring.states,
            self.ring,
            self.std**-2,
        )
        own = (states.square().sum(-1) * (-0.5 * precision)).masked_fill_(~ring.older(), -torch.inf)
        exponent = torch.baddbmm(own.unsqueeze(-2), x, states.transpose(-1, -2), alpha=precision)
        largest = exponent.amax(-1, keepdim=True)
        # e^-80 adds nothing to a sum with a 1 in it; without the clamp, exp takes ten times as long on denormal numbers
        total = exponent.sub_(largest).clamp_(min=-80).exp_().sum(-1).log() + largest.squeeze(-1)
        total = total - 0.5 * precision * x.square().sum(-1)
        log_sum = torch.logaddexp(total, torch.full_like(total, math.log(self.pseudo_count)))
        constant = ring.n_older().clamp(min=1).log() + len(self.columns) * math.log(
            self.std * math.tau**0.5
        )
        return torch.where(ring.n_older() > 0, constant - log_sum, 0.0)
