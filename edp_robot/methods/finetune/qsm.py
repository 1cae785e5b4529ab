"""`qsm`: the policy's score is the slope of Q (Q-score matching, arXiv 2312.11752).

    eps_psi(a_t, t, s) = -sigma_t score,   score = slope_scale grad_a Q(s, a_t)

It keeps nothing of pi_d but the start. The paper sets slope_scale = 10 (method section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from edp_robot.diffusion.schedule import add_noise, alpha_sigma, sample_t
from edp_robot.methods.finetune.diffusion_tuner import DiffusionTuner, DiffusionTunerConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.ranges import NotNegative
from edp_robot.methods.replay import Batch
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class SlopeConfig(DiffusionTunerConfig):
    """`slope_scale` turns the slope of Q into a score."""

    slope_scale: NotNegative = 10.0


@FINE_TUNERS.register("qsm")
class SlopeTuner(DiffusionTuner):
    """Regresses psi on -sigma_t slope_scale grad Q at noised actions of the replay."""

    Config = SlopeConfig

    def __init__(self, spec: TaskSpec, config: SlopeConfig) -> None:
        super().__init__(spec, config)
        self._slope_step = self.recorded(self._slope_once)

    @override
    def improve_on(self, seen: Batch, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi; returns metrics."""
        return self.on_rows(self._slope_step, n, (seen.obs, seen.action))

    def _slope_once(self, obs: Tensor, action: Tensor) -> dict[str, Tensor]:
        t = sample_t(len(obs), obs.device)
        a_t = add_noise(action, torch.randn_like(action), t)
        sigma = alpha_sigma(t)[1].unsqueeze(-1)
        target = -sigma * self.config.slope_scale * self.iql.slope(obs, a_t)
        return {"psi_loss": self.grad_step((self.psi(a_t, t, obs) - target).square().mean())}
