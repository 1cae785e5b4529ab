"""`dql`: the denoising loss of the data, and the gradient of Q through the sampler.

Source: diffusion Q-learning (arXiv 2208.06193):

    min over psi: denoising loss - eta E Q(s, ODE_psi(s, z)) / mean |Q|

The gradient passes through every denoising step, so a few have to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from edp_robot.diffusion.losses import denoising_loss
from edp_robot.diffusion.solver import dpm_solver_pp
from edp_robot.methods.finetune.diffusion_tuner import DiffusionTuner, DiffusionTunerConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.ranges import NotNegative
from edp_robot.methods.replay import Batch
from sim.core.spec import TaskSpec

TINY_Q = 1e-3  # mean |Q| counts as no less


@dataclass(frozen=True)
class ThroughConfig(DiffusionTunerConfig):
    """`eta` weighs Q. `gradient_denoise_steps` are those that its gradient passes through."""

    eta: NotNegative = 1.0
    gradient_denoise_steps: int = 5


@FINE_TUNERS.register("dql")
class ThroughTuner(DiffusionTuner):
    """Climbs Q through the sampler while it imitates the replay."""

    Config = ThroughConfig

    def __init__(self, spec: TaskSpec, config: ThroughConfig) -> None:
        super().__init__(spec, config)
        self._through_step = self.recorded(self._through_once)

    @override
    def improve_on(self, seen: Batch, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi; returns metrics."""
        return self.on_rows(self._through_step, n, (seen.obs, seen.action))

    def _through_once(self, obs: Tensor, action: Tensor) -> dict[str, Tensor]:
        imitation = denoising_loss(self.psi, action, obs)
        noise = torch.randn_like(action)
        drawn = dpm_solver_pp(
            lambda x, t: self.psi(x, t, obs), noise, self.config.gradient_denoise_steps
        )
        q = self.iql.critic(obs, drawn).min(0).values
        value = q.mean() / q.detach().abs().mean().clamp(min=TINY_Q)
        return {"psi_loss": self.grad_step(imitation - self.config.eta * value)}
