"""`resampling`: fits the diffusion policy to proposals resampled by exp(Q / beta) (method Eq. 7).

Among K proposals for a state it draws one with probability softmax(Q / beta). That is a
self-normalised sample of pi_n, and the noise model is fitted to such samples without a guidance
network. The proposals come in equal parts from the reference policy and the policy so far, and
some are uniform, so Eq. 7's reference is the mixture of these: a round need not find again what an
earlier one learned, what pre-training explored is never lost, and what it never did stays possible.
docs/log.md has the single runs behind this choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.finetune.proposals import ProposalConfig, ProposalTuner
from edp_robot.methods.ranges import Natural
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class ResamplingConfig(ProposalConfig):
    """`n_uniform` of the `n_proposals` actions are drawn uniformly."""

    n_uniform: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.n_proposals - 2
        if not 0 <= self.n_uniform <= most:
            raise ValueError(
                f"n_uniform={self.n_uniform}: give 0 to n_proposals - 2 = {most}; "
                "reference and policy propose the others"
            )


@FINE_TUNERS.register("resampling")
class Resampling(ProposalTuner):
    """Minimises the denoising loss on actions resampled from reference and current policy."""

    Config = ResamplingConfig

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> ResamplingConfig:
        """Returns ProposalTuner's settings, with some uniform actions where not the paper's."""
        config = super().preset(preset, spec)
        return config if preset == "paper" else replace(config, n_uniform=16)

    def improve(self, obs: Tensor, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi at normalised states (n_states, obs_dim); returns metrics."""
        config = self.config
        proposals = self.propose([self.reference, self.psi_average], obs, config.n_uniform)
        rows = torch.randint(len(obs), (n * config.policy_batch,))
        chosen = proposals.resample(rows, config.inverse_temp)
        loss = self.fit(proposals.obs[rows], chosen, n)
        return {"psi_loss": loss, "q_spread": proposals.spread()}
