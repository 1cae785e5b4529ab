"""`qam`, `trqam`: adjoint matching to pi_d exp(Q / beta) / Z, derived for our schedule.

Source: Q-learning with adjoint matching (arXiv 2601.14234) and its KL budget (arXiv 2605.27079),
both for linear flows. Here is the same for the variance-preserving schedule (method Eq. 1-3).

**The control.** The reverse SDE of pi_d, from t = 1 to 0, gets a drift beta_t u beside its own. Its
start N(0, I) is independent of the action it ends in up to alpha_1 = .007, without which the start
would be tilted too. By Girsanov the KL of the paths is E int beta_t |u|^2 / 2 dt, and

    max E[Q(x_0)] - beta KL    is attained by    u(x_t) = E[a_t | x_t].

Then x_0 has Eq. 7's law. a_t is the lean adjoint: grad Q(x_0) / beta at the end of a controlled
path, carried back along it through the drift of the *reference*, da/dt = (d drift_d / dx)^T a.

**The target.** u adds to the score, so with score = -eps_hat / sigma it is the regression target

    eps_psi(x_t) = eps_d(x_t) - sigma_t a_t.

Nothing is back-propagated through the sampler of psi. With lambda = log(alpha / sigma),
beta_t dt = -2 sigma_t^2 dlambda, and the KL is E int |eps_psi - eps_d|^2 dlambda.

**The steps.** Paths take the posterior mean of each step; x0_hat = (x - sigma eps_hat) / alpha:

    x' = m(x) + sqrt(v) xi,   m(x) = (sigma' / sigma) e^-h x + alpha' (1 - e^-2h) x0_hat(x),
    v = sigma'^2 (1 - e^-2h),   h = lambda' - lambda,

and a = (dm_d / dx)^T a'. Since m is exact for the true x0_hat, carried slopes do not depend on the
number of steps where Q and pi_d are linear and Gaussian; the variance of a path does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from edp_robot.diffusion.schedule import scalar_coefficients
from edp_robot.diffusion.solver import time_grid
from edp_robot.methods.finetune.diffusion_tuner import DiffusionTuner, DiffusionTunerConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.ranges import NotNegative
from edp_robot.methods.replay import Batch
from edp_robot.methods.soft_q import SoftQ
from sim.core.spec import TaskSpec

TINY = 1e-12  # KL at 1 / beta = 1 counts as no less, so that a flat Q gives a temperature too


class ChainStep(NamedTuple):
    """One step of the chain: x' = keep x + pull x0_hat + sqrt(v) xi."""

    t: float
    alpha: float
    sigma: float
    keep: float
    pull: float
    v: float
    d_lambda: float  # the part of lambda's range that x stands for in an integral


def chain(n_steps: int) -> list[ChainStep]:
    """Returns the steps from noise to data on the solver's grid.

    The last has variance too: it ends at T_MIN, where sigma is .01.
    """
    times = time_grid(n_steps)
    steps = []
    h_before = 0.0
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        alpha, sigma, lam = scalar_coefficients(t)
        alpha_next, sigma_next, lam_next = scalar_coefficients(t_next)
        h = lam_next - lam
        fresh = -math.expm1(-2 * h)
        steps.append(
            ChainStep(
                t=t,
                alpha=alpha,
                sigma=sigma,
                keep=sigma_next / sigma * math.exp(-h),
                pull=alpha_next * fresh,
                v=sigma_next**2 * fresh,
                d_lambda=(h_before + h) / 2,
            )
        )
        h_before = h
    return steps


def step_mean(model: nn.Module, obs: Tensor, x: Tensor, step: ChainStep) -> Tensor:
    """Returns m(x) (batch, act_dim) of a noise model.

    Args:
        model: The noise model.
        obs: Normalised observations (batch, obs_dim).
        x: Noised actions (batch, act_dim).
        step: The step.
    """
    eps = model(x, torch.full((1,), step.t, device=x.device), obs)
    x0 = ((x - step.sigma * eps) / step.alpha).clamp(-1, 1)
    return step.keep * x + step.pull * x0


@torch.no_grad()
def simulate(model: nn.Module, obs: Tensor, act_dim: int, steps: list[ChainStep]) -> list[Tensor]:
    """Returns the path x of a noise model's chain, len(steps) + 1 tensors (batch, act_dim).

    Args:
        model: The noise model.
        obs: Normalised observations (batch, obs_dim).
        act_dim: Length of an action.
        steps: The chain.
    """
    x = torch.randn(len(obs), act_dim, device=obs.device)
    path = [x]
    for step in steps:
        x = step_mean(model, obs, x, step) + math.sqrt(step.v) * torch.randn_like(x)
        path.append(x)
    return path


def adjoints(
    reference: nn.Module, obs: Tensor, path: list[Tensor], slope: Tensor, steps: list[ChainStep]
) -> list[Tensor]:
    """Returns the lean adjoint a at the x of each step, len(steps) tensors (batch, act_dim).

    Args:
        reference: Noise model of pi_d.
        obs: Normalised observations (batch, obs_dim).
        path: What `simulate` returned.
        slope: Gradient of Q at the path's end (batch, act_dim).
        steps: The chain.
    """
    carried = [slope]
    for x, step in zip(path[-2::-1], steps[::-1], strict=True):
        with torch.enable_grad():
            start = x.detach().requires_grad_(True)
            mean = step_mean(reference, obs, start, step)
            carried.append(torch.autograd.grad(mean, start, carried[-1])[0])
    return carried[:0:-1]


@dataclass(frozen=True)
class AdjointConfig(DiffusionTunerConfig):
    """Settings of the chain and its temperature.

    `n_chain_steps` is the length of the chain, `n_paths` how many a round simulates. `inverse_temp`
    is 1 / beta. `value_batch` are the states of a grad_step of V.
    """

    n_chain_steps: int = 12
    n_paths: int = 512
    inverse_temp: NotNegative = 3.0
    value_batch: int = 64


@FINE_TUNERS.register("qam")
class AdjointTuner(DiffusionTuner):
    """Regresses psi on eps_d minus the carried slope of Q, at a fixed 1 / beta."""

    Config = AdjointConfig
    iql: SoftQ
    inverse_temp: Tensor

    def __init__(self, spec: TaskSpec, config: AdjointConfig) -> None:
        super().__init__(spec, config)
        self.register_buffer("inverse_temp", torch.tensor(float(config.inverse_temp)))
        self.steps = chain(config.n_chain_steps)
        self._match_step = self.recorded(self._match_once)

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> AdjointConfig:
        """Returns DiffusionTuner's settings."""
        config = super().preset(preset, spec)
        return config if preset == "paper" else replace(config, n_states=512)

    @override
    def make_critic(self) -> SoftQ:
        """Returns the critic, whose V is fitted to the paths' ends."""
        return SoftQ(self.spec.obs_dim, self.spec.act_dim, self.config.iql)

    @override
    def begin_round(self, obs: Tensor) -> list[tuple[Tensor, ...]]:
        """Simulates psi's chain; returns V's batches: states, actions there, and their KL."""
        obs = obs[: self.config.n_paths]
        path = simulate(self.psi_average.eval(), obs, self.spec.act_dim, self.steps)
        kl = self.path_kl(obs, path)
        self.paths = (obs, path)
        self.kl = kl.mean()
        parts = (obs, path[-1].clamp(-1, 1), kl)
        size = min(self.config.value_batch, len(obs))
        whole = len(obs) // size * size
        batches = zip(*(part[:whole].split(size) for part in parts), strict=True)
        return [(*batch, self.inverse_temp.clone()) for batch in batches]

    @torch.no_grad()
    def path_kl(self, obs: Tensor, path: list[Tensor]) -> Tensor:
        """Returns the integral of |eps_psi - eps_d|^2 over lambda along each path (batch,) [nats].

        Its mean is the KL of psi's paths to pi_d's, and bounds that of their actions.

        Args:
            obs: Normalised observations (batch, obs_dim).
            path: What `simulate` returned.
        """
        total = torch.zeros(len(obs))
        for x, step in zip(path[:-1], self.steps, strict=True):
            t = torch.full((1,), step.t)
            apart = self.psi_average(x, t, obs) - self.reference(x, t, obs)
            total += step.d_lambda * apart.square().sum(-1)
        return total

    @override
    def _critic_once(self, *fields: Tensor) -> dict[str, Tensor]:
        return self.iql.update_on_policy(Batch(*fields[:-4]), *fields[-4:])

    @override
    def improve(self, obs: Tensor, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi towards the adjoints' targets; returns metrics."""
        obs, path = self.paths
        carried = adjoints(
            self.reference, obs, path, self.iql.slope(obs, path[-1].clamp(-1, 1)), self.steps
        )
        self.set_temperature(carried)
        rows = self.targets(obs, path, carried)
        metrics = self.on_rows(self._match_step, n, rows)
        return {**metrics, "kl": self.kl, "inverse_temp": self.inverse_temp.clone()}

    def set_temperature(self, carried: list[Tensor]) -> None:
        """Sets 1 / beta from the round's adjoints of Q itself; here it stays as it is."""

    @torch.no_grad()
    def targets(
        self, obs: Tensor, path: list[Tensor], carried: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns (obs, x, t, eps) of every step of every path, (n_paths n_steps, ...).

        Args:
            obs: Normalised observations (n_paths, obs_dim).
            path: What `simulate` returned.
            carried: What `adjoints` returned.
        """
        parts = []
        for x, a, step in zip(path[:-1], carried, self.steps, strict=True):
            t = torch.full((len(x),), step.t)
            shift = step.sigma * self.inverse_temp * a
            parts.append((obs, x, t, self.reference(x, t, obs) - shift))
        states, noised, times, eps = (torch.cat(part) for part in zip(*parts, strict=True))
        return states, noised, times, eps

    def _match_once(self, obs: Tensor, x: Tensor, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        return {"psi_loss": self.grad_step((self.psi(x, t, obs) - eps).square().mean())}


@dataclass(frozen=True)
class BudgetConfig(AdjointConfig):
    """With a KL budget [nats], which decides 1 / beta in each round."""

    target_kl: float = 2.0


@FINE_TUNERS.register("trqam")
class BudgetTuner(AdjointTuner):
    """Chooses 1 / beta so that the KL to pi_d is a budget.

    The control is a / beta with the adjoint a of Q itself, so the KL of the paths is
    E int sigma^2 |a|^2 dlambda / beta^2: a budget gives beta in closed form.
    """

    Config = BudgetConfig

    @override
    def set_temperature(self, carried: list[Tensor]) -> None:
        """Sets 1 / beta to sqrt(target_kl / E int sigma^2 |a|^2 dlambda)."""
        parts = [
            step.d_lambda * step.sigma**2 * a.square().sum(-1)
            for a, step in zip(carried, self.steps, strict=True)
        ]
        unit = torch.stack(parts).sum(0).mean()
        budget = torch.as_tensor(self.config.target_kl)
        self.inverse_temp.copy_((budget / unit.clamp(min=TINY)).sqrt())
