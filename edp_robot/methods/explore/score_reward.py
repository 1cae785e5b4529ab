"""EDP's intrinsic reward: how badly a diffusion model of visited states predicts the noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edp_robot.diffusion.losses import denoising_loss
from edp_robot.diffusion.schedule import add_noise, half_log_snr, sample_t, t_of_half_log_snr
from edp_robot.engine import Adam
from edp_robot.methods.explore.exact_score import ExactScoreReward
from edp_robot.methods.explore.intrinsic_reward import INTRINSIC_REWARDS, IntrinsicReward
from edp_robot.methods.explore.novelty import novelty_columns
from edp_robot.methods.explore.resolution import Resolution
from edp_robot.methods.explore.ring import Ring
from edp_robot.methods.explore.score_config import PAIRED, SHARED, ScoreRewardConfig
from edp_robot.methods.models import SMALL, noise_model
from sim.core.spec import TaskSpec

# Draws per state (K) by domain, as the authors' code sets them (method section 2).
PAPER_DRAWS = {"maze": 20, "gym": 20}


@INTRINSIC_REWARDS.register("edp")
class ScoreReward(IntrinsicReward):
    """R(s) = E_{t, eps} ||eps'(s_t, t) - eps||^2 (method Eq. 5).

    Estimators (method section 7), each less noisy than the one before. `iid` draws t and eps for
    every state, as the authors' code does. `stratified` stratifies t. `antithetic` also pairs
    +-eps. `shared` also uses one set of (t, eps) for the whole batch, fresh at each call, so that
    the noise of the estimate cancels between states. `centred` also takes the batch's mean away.
    `fixed` draws paired eps once for the run, each at the middle of its stratum of t: the reward of
    a state then changes with the model alone. All are measured without dropout, which the authors'
    code leaves on (method section 4).

    `spacing` says how t is spread over [t_low, t_high]. `time` spreads it evenly, as the authors'
    code does. `log_snr` spreads it evenly in log_snr (method Eq. 3), for the model's training too:
    with that weight Eq. 5 bounds -log p(s). Evenly in t, most draws have noise of the size of a
    whole maze, and the reward hardly knows what is rare (docs/exploration.md measures both).

    With `n_neighbours` above 0, what the model sees is scaled so that the noise at t_low is the
    `Resolution` of the data.
    """

    Config = ScoreRewardConfig
    recordable = True
    columns: Tensor
    kept_t: Tensor | None
    kept_eps: Tensor | None

    def __init__(self, spec: TaskSpec, config: ScoreRewardConfig, **learners: Any) -> None:
        super().__init__(spec, config, **learners)
        columns = novelty_columns(spec, config.fields)
        self.config: ScoreRewardConfig = config
        self.model = noise_model(len(columns), 0, config.model, (self.n_seeds,))
        self.register_buffer("columns", torch.tensor(columns))
        self.ring = None
        if config.n_neighbours:
            self.ring = Ring(self.n_seeds, config.n_states, len(columns))
            self.resolution = Resolution(self.n_seeds, config.t_low, config.n_neighbours)
        self._draw_once()
        self.optimizer = Adam(self.model.parameters(), config.model.learning_rate)

    @classmethod
    def form(cls, config: ScoreRewardConfig) -> type[IntrinsicReward]:
        """Returns ExactScoreReward where the estimator is `exact`."""
        return ExactScoreReward if config.estimator == "exact" else cls

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> ScoreRewardConfig:
        """Returns the paper's settings, or those that explored best in minutes on two cores.

        That is the exact form (docs/exploration.md), on the few novelty fields of a task that names
        some. The resolution of mazes and of the arm was found by trial, that of other tasks follows
        the data. Its state model, t_high and spacing are for the estimators with a network
        (`--set reward.estimator=...`).
        """
        if preset == "paper":
            draws = PAPER_DRAWS.get(spec.domain, 10)
            return ScoreRewardConfig(n_draws=draws, t_low=1e-3, t_high=1.0, estimator="iid")
        if spec.domain != "maze":
            is_arm = spec.domain == "arm"
            return ScoreRewardConfig(
                estimator="exact",
                t_low=0.02 if is_arm else 0.1,
                n_neighbours=0.0 if is_arm else 8.0,
                pseudo_count=1e-9,
                fields=spec.novelty_fields,
                model=SMALL,
            )
        model = replace(SMALL, learning_rate=1e-3, n_features=32, time_dim=32)
        return ScoreRewardConfig(
            t_low=0.004, t_high=0.2, spacing="log_snr", estimator="exact", model=model
        )

    def update(self, obs: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step of method Eq. 4's first term; returns the loss (n_seeds,)."""
        self.model.train()
        t = None
        if self.config.spacing != "time":
            t = self.level(sample_t(obs.shape[-2], obs.device, 0.0, 1.0))
        if self.ring is not None:
            visited = obs[..., self.columns]
            self.ring.add(visited)
            self.resolution.follow(self.ring, visited)
        loss = denoising_loss(self.model, self.seen(obs), t=t)
        self.optimizer.descend(loss)
        return {"state_loss": loss.detach()}

    def seen(self, obs: Tensor) -> Tensor:
        """Returns what the model sees of obs (n_seeds, batch, obs_dim): (n_seeds, batch, dim)."""
        chosen = obs[..., self.columns]
        return chosen if self.ring is None else chosen / self.resolution.scale()

    def level(self, u: Tensor) -> Tensor:
        """Returns the t at the share u of the way from t_low to t_high, in t or in log_snr."""
        low = self.config.t_low
        high = self.config.t_high
        if self.config.spacing == "time":
            return low + (high - low) * u
        a, b = half_log_snr(torch.tensor([low, high], dtype=torch.float64)).tolist()
        return t_of_half_log_snr(a + (b - a) * u.double()).float()

    def draws(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns t (..., n_draws) and eps (..., n_draws, dim) for states of `shape` (..., dim).

        Shared draws have no leading axes: they serve all states.
        """
        estimator = self.config.estimator
        paired = estimator in PAIRED
        lead = () if estimator in SHARED else shape[:-1]
        n = self.config.n_draws // 2 if paired else self.config.n_draws
        n_strata = 1 if estimator == "iid" else n
        place = torch.arange(n, device=device) % n_strata
        middle = torch.full((*lead, n), 0.5, device=device)
        within = middle if estimator == "fixed" else torch.rand(*lead, n, device=device)
        t = self.level((place + within) / n_strata)
        eps = torch.randn(*lead, n, shape[-1], device=device)
        return (torch.cat([t, t], -1), torch.cat([eps, -eps], -2)) if paired else (t, eps)

    def _draw_once(self) -> None:
        """Keeps the draws of the estimator `fixed`, which last for the whole run."""
        t = None
        eps = None
        if self.config.estimator == "fixed":
            shape = torch.Size((self.n_seeds, 1, len(self.columns)))
            t, eps = self.draws(shape, torch.device("cpu"))
        self.register_buffer("kept_t", t)
        self.register_buffer("kept_eps", eps)

    @torch.no_grad()
    def error(self, obs: Tensor) -> Tensor:
        """Returns method Eq. 5 (n_seeds, batch): the mean squared error per dimension and draw.

        `centred` returns it less the batch's mean.
        """
        self.model.eval()
        x0 = self.seen(obs)
        t = self.kept_t
        eps = self.kept_eps
        if t is None or eps is None:
            t, eps = self.draws(x0.shape, obs.device)
        x_t = add_noise(x0.unsqueeze(-2), eps, t)  # (n_seeds, batch, n_draws, dim)
        error = (self.model(x_t, t) - eps).square().mean((-2, -1))
        return error - error.mean(-1, keepdim=True) if self.config.estimator == "centred" else error

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the state model's optimizer."""
        return {"state": self.optimizer}
