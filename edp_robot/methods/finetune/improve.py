"""Policy improvement for diffusion policies: two ways to fit pi_n = pi exp(Q / beta) / Z (method Eq. 7).

`GuidedImprovement` is the paper's: contrastive guidance (Eq. 9), distilled into one network (Eq. 10).
`ResampledImprovement` needs no guidance network: among K proposals a state it draws one with probability softmax(Q /
beta), a self-normalised sample of pi_n, and fits the noise model to those samples. Its proposals come in equal parts
from the reference policy and the policy so far, and some are uniform, so that Eq. 7's reference is the mixture of
these: what was learned in one round need not be found again in the next, what pre-training explored is never lost, and
what it never did stays possible. docs/log.md has the single
runs that chose it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edp_robot.diffusion.losses import denoising_loss
from edp_robot.diffusion.networks import NoiseModel
from edp_robot.diffusion.solver import dpm_solver_pp
from edp_robot.methods.ddpg import polyak_update
from edp_robot.methods.finetune.guidance import Guidance, GuidanceConfig, distillation_loss
from edp_robot.methods.iql import IQL


@dataclass(frozen=True)
class ImproveConfig:
    """Sizes of one round of policy improvement."""

    n_states: int = 1024  # states with K proposals each, drawn anew every round
    n_proposals: int = 32  # K of method Eq. 9
    n_uniform: int = 0  # of these, drawn uniformly: what pi_d has never done stays possible
    proposal_denoise_steps: int = 15
    inverse_temp: float = 3.0  # 1 / beta
    relative_temp: bool = (
        False  # beta in units of Q's mean spread within a state, so that every round moves as far
    )
    batch: int = 256
    guidance_batch: int = 64
    polyak: float = 0.01  # of psi's running average
    grad_steps_per_update: float = 1.0  # grad_steps of the policy for each of the critic's
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.n_uniform <= self.n_proposals - 2:
            raise ValueError(
                f"n_uniform={self.n_uniform}: give 0 to n_proposals - 2 = {self.n_proposals - 2}; "
                "reference and policy propose the others"
            )


@dataclass(frozen=True)
class Proposals:
    """States (m, obs_dim) normalised, K actions each (m, K, act_dim), and their Q (m, K)."""

    obs: Tensor
    actions: Tensor
    q: Tensor

    def resample(self, rows: Tensor, inverse_temp: float) -> Tensor:
        """Returns one action a state (len(rows), act_dim), drawn with probability softmax(q inverse_temp)."""
        weight = torch.softmax(self.q[rows] * inverse_temp, -1)
        return self.actions[rows, torch.multinomial(weight, 1).squeeze(-1)]


@dataclass(frozen=True)
class PolicyModels:
    """psi, which learns; its running average, which acts and proposes; the frozen reference; psi's optimizer."""

    psi: NoiseModel
    average: NoiseModel
    reference: NoiseModel
    optimizer: torch.optim.Optimizer

    def grad_step(self, loss: Tensor, polyak: float) -> float:
        """One step down `loss`; the average follows by the share `polyak`; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        polyak_update(self.average, self.psi, polyak)
        return loss.item()


@torch.no_grad()
def propose(
    models: list[NoiseModel],
    obs: Tensor,
    critic: IQL,
    act_dim: int,
    config: ImproveConfig,
    n_uniform: int = 0,
) -> Proposals:
    """Returns K actions a state at normalised obs (m, obs_dim): uniform ones, and as many from each of `models`."""
    k = (config.n_proposals - n_uniform) // len(models)
    wide, parts = obs.repeat_interleave(k, 0), []
    for model in models:
        model.eval()
        noise = torch.randn(len(wide), act_dim, device=obs.device)
        # bind the model: the lambda runs inside this iteration only
        parts.append(
            dpm_solver_pp(lambda x, t, m=model: m(x, t, wide), noise, config.proposal_denoise_steps)
        )
    uniform = 2 * torch.rand(len(obs), n_uniform, act_dim, device=obs.device) - 1
    actions = torch.cat([*(a.reshape(len(obs), k, act_dim) for a in parts), uniform], 1)
    n = actions.shape[1]
    q = critic.q(obs.repeat_interleave(n, 0), actions.flatten(0, 1)).reshape(len(obs), n)
    if config.relative_temp:
        q = q / q.std(1).mean().clamp(min=1e-6)
    return Proposals(obs, actions, q)


class ResampledImprovement(nn.Module):
    """Denoising loss on actions resampled by exp(Q / beta) from reference and current policy."""

    def __init__(self, obs_dim: int, act_dim: int, config: ImproveConfig) -> None:
        super().__init__()
        self.config, self.act_dim = config, act_dim

    def update(self, models: PolicyModels, critic: IQL, obs: Tensor, n: int) -> dict[str, float]:
        """`n` grad_steps of psi at normalised states (m, obs_dim); returns metrics."""
        sources = [models.reference, models.average]
        proposals = propose(sources, obs, critic, self.act_dim, self.config, self.config.n_uniform)
        models.psi.train()
        loss = 0.0
        for _ in range(n):
            rows = torch.randint(len(obs), (self.config.batch,))
            chosen = proposals.resample(rows, self.config.inverse_temp)
            loss = models.grad_step(
                denoising_loss(models.psi, chosen, proposals.obs[rows]), self.config.polyak
            )
        return {"psi_loss": loss, "q_spread": proposals.q.std(1).mean().item()}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns no optimizer of its own."""
        return {}


class GuidedImprovement(nn.Module):
    """Method Eq. 9 and 10: proposals from pi_d alone, contrastive guidance, distillation."""

    def __init__(self, obs_dim: int, act_dim: int, config: ImproveConfig) -> None:
        super().__init__()
        self.config, self.act_dim = config, act_dim
        self.guidance = Guidance(obs_dim, act_dim, config.guidance)

    def update(self, models: PolicyModels, critic: IQL, obs: Tensor, n: int) -> dict[str, float]:
        """`n` grad_steps of the guidance, then of psi, at normalised states (m, obs_dim); returns metrics."""
        config = self.config
        proposals = propose([models.reference], obs, critic, self.act_dim, config)
        for _ in range(n):
            rows = torch.randint(len(obs), (config.guidance_batch,))
            args = (proposals.obs[rows], proposals.actions[rows], proposals.q[rows])
            guidance_loss = self.guidance.update(*args, config.inverse_temp)
        models.psi.train()
        for _ in range(n):
            rows = torch.randint(len(obs), (config.batch,))
            chosen = proposals.resample(rows, config.inverse_temp)
            loss = distillation_loss(
                models.psi, models.reference, self.guidance, proposals.obs[rows], chosen
            )
            psi_loss = models.grad_step(loss, config.polyak)
        return {
            "guidance_loss": guidance_loss,
            "psi_loss": psi_loss,
            "q_spread": proposals.q.std(1).mean().item(),
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the guidance's."""
        return {"guidance": self.guidance.optimizer}
