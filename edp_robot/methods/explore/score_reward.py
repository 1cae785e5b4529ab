"""EDP's own intrinsic reward: how badly a diffusion model of the visited states predicts the noise on this one."""

from __future__ import annotations

import torch
from torch import Tensor

from edp_robot.diffusion.losses import denoising_loss
from edp_robot.diffusion.networks import NoiseModel
from edp_robot.diffusion.schedule import add_noise, half_log_snr, sample_t, t_of_half_log_snr
from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward


class ScoreReward(IntrinsicReward):
    """R(s) = E_{t, eps} ||eps'(s_t, t) - eps||^2 (method Eq. 5), divided by a running standard deviation.

    Estimators (method section 7), each less noisy than the one before: `iid` t and eps for every state, as in the
    authors' code; `stratified` t; `antithetic`: also +-eps; `shared`: also one set of (t, eps) for the whole batch,
    fresh at each call, so that the noise of the estimate cancels between states. All are measured without dropout
    (the authors' code leaves it on, method section 4), with t in [t_low, t_high], where states differ.

    `spacing` says how t is spread in there, for the estimate and, where it is not `time`, for the model's training too.
    `time`: evenly, as in the authors' code. `log_snr`: evenly in log_snr (method Eq. 3), which is the weight with which
    Eq. 5 bounds -log p(s). Evenly in t, most draws have noise of the size of a whole maze, and the reward hardly knows
    what is rare: docs/exploration.md has both against the density of visits.

    Args:
        model: a stack of n_seeds noise models over the `columns` of the normalised observation.
        columns: indices of the observation that novelty is measured on.
        estimator, spacing: see above.
        n_draws: network calls a state (K), even where noise comes in pairs.
        learning_rate: of Adam.
    """

    ESTIMATORS = ("iid", "stratified", "antithetic", "shared")
    SPACINGS = ("time", "log_snr")
    columns: Tensor

    def __init__(
        self,
        model: NoiseModel,
        columns: list[int],
        *,
        n_seeds: int = 1,
        estimator: str = "shared",
        n_draws: int = 4,
        learning_rate: float = 1e-4,
        t_low: float = 0.05,
        t_high: float = 0.6,
        spacing: str = "time",
        centre: bool = False,
    ) -> None:
        super().__init__(n_seeds, centre)
        if estimator not in self.ESTIMATORS:
            raise ValueError(f"no estimator {estimator!r}; there are: {', '.join(self.ESTIMATORS)}")
        if spacing not in self.SPACINGS:
            raise ValueError(f"no spacing {spacing!r}; there are: {', '.join(self.SPACINGS)}")
        self.spacing = spacing
        self.paired = estimator in ("antithetic", "shared")
        if n_draws < 1 or (self.paired and n_draws % 2):
            raise ValueError(
                f"n_draws={n_draws}: antithetic noise comes in pairs; give an even number, 2 or more"
            )
        self.model, self.estimator, self.n_draws, self.t_range = (
            model,
            estimator,
            n_draws,
            (t_low, t_high),
        )
        self.register_buffer("columns", torch.tensor(columns))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """One grad_step of method Eq. 4's first term; returns the loss (n_seeds,)."""
        self.model.train()
        own = self.spacing != "time"
        t = self.level(sample_t(obs.shape[-2], obs.device, 0.0, 1.0)) if own else None
        loss = denoising_loss(self.model, obs[..., self.columns], t=t)
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.optimizer.step()
        return {"state_loss": loss.detach()}

    def level(self, u: Tensor) -> Tensor:
        """Returns the t at the share u of the way from t_low to t_high, in t or in log_snr."""
        low, high = self.t_range
        if self.spacing == "time":
            return low + (high - low) * u
        a, b = half_log_snr(torch.tensor([low, high], dtype=torch.float64)).tolist()
        return t_of_half_log_snr(a + (b - a) * u.double()).float()

    def draws(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns t (..., n_draws) and eps (..., n_draws, dim) for states of `shape` (..., dim).

        Shared draws have no leading axes: they serve all states.
        """
        lead = () if self.estimator == "shared" else shape[:-1]
        n = self.n_draws // 2 if self.paired else self.n_draws
        n_strata = 1 if self.estimator == "iid" else n
        place = torch.arange(n, device=device) % n_strata
        t = self.level((place + torch.rand(*lead, n, device=device)) / n_strata)
        eps = torch.randn(*lead, n, shape[-1], device=device)
        return (torch.cat([t, t], -1), torch.cat([eps, -eps], -2)) if self.paired else (t, eps)

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns method Eq. 5 (n_seeds, batch), unscaled: the mean squared error a dimension over n_draws draws."""
        self.model.eval()
        x0 = obs[..., self.columns]
        t, eps = self.draws(x0.shape, obs.device)
        x_t = add_noise(x0.unsqueeze(-2), eps, t)  # (n_seeds, batch, n_draws, dim)
        return (self.model(x_t, t) - eps).square().mean((-2, -1))

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the state model's."""
        return {"state": self.optimizer}
