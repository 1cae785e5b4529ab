"""Proposed actions for each state, weighted by the critic: samples of pi_n (method Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edp_robot.diffusion.solver import dpm_solver_pp
from edp_robot.methods.finetune.diffusion_tuner import DiffusionTuner, DiffusionTunerConfig
from edp_robot.methods.ranges import NotNegative
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class ProposalConfig(DiffusionTunerConfig):
    """How actions are proposed and weighted.

    `n_proposals` is K of method Eq. 9 and `inverse_temp` is 1 / beta. With `relative_temp`, beta is
    in units of Q's mean spread within a state, so that every round moves the policy as far.
    """

    n_proposals: int = 32
    proposal_denoise_steps: int = 15
    inverse_temp: NotNegative = 3.0
    relative_temp: bool = False


@dataclass(frozen=True)
class Proposals:
    """Normalised states (m, obs_dim), K actions for each (m, K, act_dim), and their Q (m, K)."""

    obs: Tensor
    actions: Tensor
    q: Tensor

    def resample(self, rows: Tensor, inverse_temp: float) -> Tensor:
        """Returns an action for each row, drawn with probability softmax(q inverse_temp)."""
        weight = torch.softmax(self.q[rows] * inverse_temp, -1)
        return self.actions[rows, torch.multinomial(weight, 1).squeeze(-1)]

    def spread(self) -> float:
        """Returns the mean standard deviation of Q within a state."""
        return self.q.std(1).mean().item()


class ProposalTuner(DiffusionTuner):
    """A diffusion fine-tuner whose rounds start from proposed actions."""

    Config = ProposalConfig

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> Any:
        """Returns the paper's settings, or cheaper proposals at a higher inverse temperature."""
        config = super().preset(preset, spec)
        if preset == "paper":
            return config
        return replace(config, proposal_denoise_steps=8, inverse_temp=10.0, relative_temp=True)

    @torch.no_grad()
    def propose(self, models: Sequence[nn.Module], obs: Tensor, n_uniform: int = 0) -> Proposals:
        """Returns `config.n_proposals` actions for each state, valued by the critic.

        Args:
            models: Noise models, each of which proposes an equal share.
            obs: Normalised states (m, obs_dim).
            n_uniform: How many of the actions are drawn uniformly from [-1, 1].
        """
        config = self.config
        act_dim = self.spec.act_dim
        k = (config.n_proposals - n_uniform) // len(models)
        wide = obs.repeat_interleave(k, 0)
        parts = []
        for model in models:
            model.eval()
            noise = torch.randn(len(wide), act_dim, device=obs.device)
            eps_hat = partial(_conditioned, model, wide)
            drawn = dpm_solver_pp(eps_hat, noise, config.proposal_denoise_steps)
            parts.append(drawn.reshape(len(obs), k, act_dim))
        uniform = 2 * torch.rand(len(obs), n_uniform, act_dim, device=obs.device) - 1
        return self.valued(obs, torch.cat([*parts, uniform], 1))

    @torch.no_grad()
    def valued(self, obs: Tensor, actions: Tensor) -> Proposals:
        """Returns actions (m, K, act_dim) at normalised states (m, obs_dim) with the critic's Q."""
        config = self.config
        n = actions.shape[1]
        q = self.iql.q(obs.repeat_interleave(n, 0), actions.flatten(0, 1)).reshape(len(obs), n)
        if config.relative_temp:
            q = q / q.std(1).mean().clamp(min=1e-6)
        return Proposals(obs, actions, q)


def _conditioned(model: nn.Module, condition: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Returns the noise that `model` predicts, with the condition first for `partial`."""
    return model(x, t, condition)
