"""`dipo`: actions of the replay climb Q, and the diffusion policy imitates where they end.

Source: arXiv 2305.13122, with the paper's numbers: 20 Adam steps at rate .03 (method section 3).
The climbed actions are not written back into the replay, which the other methods share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from edp_robot.methods.finetune.diffusion_tuner import DiffusionTuner, DiffusionTunerConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.ranges import Natural, NotNegative
from edp_robot.methods.replay import Batch


@dataclass(frozen=True)
class ClimbConfig(DiffusionTunerConfig):
    """`n_climbs` steps of Adam at `climb_rate` move each action."""

    n_climbs: Natural = 20
    climb_rate: NotNegative = 0.03


@FINE_TUNERS.register("dipo")
class ClimbTuner(DiffusionTuner):
    """Fits psi to the replay's actions after they climbed Q."""

    Config = ClimbConfig

    @override
    def improve_on(self, seen: Batch, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi towards the climbed actions; returns metrics."""
        climbed = self.climb(seen.obs, seen.action)
        moved = (climbed - seen.action).norm(dim=-1).mean()
        return {"psi_loss": self.fit(seen.obs, climbed, n), "moved": moved}

    def climb(self, obs: Tensor, action: Tensor) -> Tensor:
        """Returns actions (m, act_dim) in [-1, 1] after `n_climbs` steps up Q.

        Args:
            obs: Normalised observations (m, obs_dim).
            action: Where they start (m, act_dim).
        """
        moving = action.clone()
        optimizer = torch.optim.Adam([moving], self.config.climb_rate)
        for _ in range(self.config.n_climbs):
            moving.grad = -self.iql.slope(obs, moving)
            optimizer.step()
            moving.clamp_(-1, 1)
        return moving
