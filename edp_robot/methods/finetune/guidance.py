"""`edp-guidance`: the paper's contrastive guidance and its distillation (method Eq. 9, 10)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from edp_robot.diffusion.losses import contrastive_energy_loss
from edp_robot.diffusion.networks import FourierTime, mlp
from edp_robot.diffusion.schedule import add_noise, alpha_sigma, sample_t
from edp_robot.engine import Adam
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.finetune.proposals import ProposalConfig, ProposalTuner
from edp_robot.methods.ranges import NotNegative, Ranged
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class GuidanceConfig(Ranged):
    """Sizes of the guidance network (method section 3)."""

    width: int = 256
    n_layers: int = 4
    learning_rate: NotNegative = 3e-4


@dataclass(frozen=True)
class GuidedConfig(ProposalConfig):
    """Adds the guidance network and the states in each of its grad_steps."""

    guidance_batch: int = 64
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)


class Guidance(nn.Module):
    """The energy f(s, a_t, t) = log E[exp(Q(s, a_0) / beta) | a_t], up to a constant per state."""

    def __init__(self, obs_dim: int, act_dim: int, config: GuidanceConfig) -> None:
        super().__init__()
        self.time = FourierTime(32, 32, scale=1.0, activation="silu")
        sizes = [obs_dim + act_dim + 32, *[config.width] * config.n_layers, 1]
        self.net = mlp(sizes, layer_norm=False)
        self.optimizer = Adam(self.parameters(), config.learning_rate)

    def forward(self, obs: Tensor, a_t: Tensor, t: Tensor) -> Tensor:
        """Returns f (...,).

        Args:
            obs: Normalised observations (..., obs_dim).
            a_t: Noised actions (..., act_dim).
            t: Noise levels that broadcast to (...,).
        """
        time = self.time(t).expand(*a_t.shape[:-1], -1)
        return self.net(torch.cat([obs, a_t, time], -1)).squeeze(-1)

    def gradient(self, obs: Tensor, a_t: Tensor, t: Tensor) -> Tensor:
        """Returns grad_{a_t} f (batch, act_dim), which shifts the score.

        Args:
            obs: See forward.
            a_t: See forward.
            t: See forward.
        """
        with torch.enable_grad():
            a_t = a_t.detach().requires_grad_(True)
            return torch.autograd.grad(self(obs, a_t, t).sum(), a_t)[0]

    def update(self, obs: Tensor, actions: Tensor, q: Tensor, inverse_temp: float) -> Tensor:
        """Takes one grad_step of Eq. 9; returns the loss, a scalar.

        Each state gets one t, each action noise of its own.

        Args:
            obs: Normalised observations (batch, obs_dim).
            actions: Actions (batch, K, act_dim) drawn from pi_d, as in the paper. The authors' code
                draws them from the fine-tuned model.
            q: Their values (batch, K).
            inverse_temp: 1 / beta.
        """
        t = sample_t(len(obs), obs.device).unsqueeze(-1)
        a_t = add_noise(actions, torch.randn_like(actions), t)
        f = self(obs.unsqueeze(1).expand(-1, actions.shape[1], -1), a_t, t)
        loss = contrastive_energy_loss(q, f, inverse_temp)
        self.optimizer.descend(loss)
        return loss.detach()


def guided_noise(
    reference: nn.Module, guidance: Guidance, obs: Tensor, a_t: Tensor, t: Tensor
) -> Tensor:
    """Returns eps_d - sigma_t grad f (batch, act_dim), the noise of pi_d exp(Q / beta).

    Source: method Eq. 7 and 10.

    Args:
        reference: Noise model of pi_d.
        guidance: The energy f.
        obs: Normalised observations (batch, obs_dim).
        a_t: Noised actions (batch, act_dim).
        t: Noise levels (batch,).
    """
    sigma = alpha_sigma(t)[1].unsqueeze(-1)
    with torch.no_grad():
        eps = reference(a_t, t, obs)
    return eps - sigma * guidance.gradient(obs, a_t, t)


@FINE_TUNERS.register("edp-guidance")
class GuidedTuner(ProposalTuner):
    """Proposes from pi_d alone, fits the guidance (Eq. 9) and distils it into psi (Eq. 10)."""

    Config = GuidedConfig

    def __init__(self, spec: TaskSpec, config: GuidedConfig) -> None:
        super().__init__(spec, config)
        self.guidance = Guidance(spec.obs_dim, spec.act_dim, config.guidance)
        self._guidance_step = self.recorded(self._guide_once)
        self._distill_step = self.recorded(self._distill_once)

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> GuidedConfig:
        """Returns ProposalTuner's settings, with a smaller guidance where not the paper's."""
        config = super().preset(preset, spec)
        small = GuidanceConfig(width=128, n_layers=3, learning_rate=1e-3)
        return config if preset == "paper" else replace(config, guidance=small)

    def improve(self, obs: Tensor, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of the guidance, then of psi; returns metrics."""
        config = self.config
        proposals = self.propose([self.reference], obs)
        parts = (proposals.obs, proposals.actions, proposals.q)
        metrics = self.on_rows(self._guidance_step, n, parts, config.guidance_batch)
        for _ in range(n):
            rows = torch.randint(len(obs), (config.policy_batch,))
            chosen = proposals.resample(rows, config.inverse_temp)
            metrics |= self._distill_step(proposals.obs[rows], chosen)
        return {**metrics, "q_spread": proposals.spread()}

    def _guide_once(self, obs: Tensor, actions: Tensor, q: Tensor) -> dict[str, Tensor]:
        loss = self.guidance.update(obs, actions, q, self.config.inverse_temp)
        return {"guidance_loss": loss}

    def _distill_once(self, obs: Tensor, actions: Tensor) -> dict[str, Tensor]:
        return {"psi_loss": self.grad_step(self.distillation_loss(obs, actions))}

    def distillation_loss(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Returns the mean of ||eps_psi - (eps_d - sigma_t grad f)||^2 / act_dim, a scalar.

        That is Eq. 10: scores are -eps / sigma, so its weight sigma_t^2 leaves the plain difference
        of noises. The authors' code keeps a factor 1 / sigma too much. `obs` (batch, obs_dim) is
        normalised; `actions` (batch, act_dim) are noised here.
        """
        t = sample_t(len(obs), obs.device)
        a_t = add_noise(actions, torch.randn_like(actions), t)
        target = guided_noise(self.reference, self.guidance, obs, a_t, t).detach()
        return (self.psi(a_t, t, obs) - target).square().mean()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the optimizers of critic, psi and guidance."""
        return {**super().optimizers(), "guidance": self.guidance.optimizer}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned, from checkpoints with an older network name too."""
        model = {name.removeprefix("improvement."): w for name, w in saved["model"].items()}
        super().load({**saved, "model": model})
