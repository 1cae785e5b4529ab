"""`idql`: the diffusion policy imitates the data, and the critic chooses among its actions.

Source: implicit diffusion Q-learning (arXiv 2304.10573); best of 4 as in the paper's comparison
(method section 3). Nothing moves the policy towards better actions but the choice at acting, whose
results are data in the next round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from edp_robot.methods.finetune.diffusion_tuner import DiffusionTuner, DiffusionTunerConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.replay import Batch


@dataclass(frozen=True)
class ImplicitConfig(DiffusionTunerConfig):
    """The shared settings; acting takes the best of `best_of`."""

    best_of: int = 4


@FINE_TUNERS.register("idql")
class ImplicitTuner(DiffusionTuner):
    """Fits psi to the replay's actions; acts by the best of K."""

    Config = ImplicitConfig

    @override
    def improve_on(self, seen: Batch, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi down the denoising loss of the replay's actions."""
        return {"psi_loss": self.fit(seen.obs, seen.action, n)}
