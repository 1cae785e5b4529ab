"""A fine-tuner of your own: the diffusion policy imitates the best of K proposed actions.

    edp finetune --task arm-press --from runs/arm --method my_tuner:BestOfK --out runs/press

Run it in the folder of this file. No other file names it. ProposalTuner brings the critic, actions
for each state, the checkpoint, and a policy that can be distilled and exported. `improve` is the
policy's share of a round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edp_robot import ProposalConfig, ProposalTuner


@dataclass(frozen=True)
class BestOfKConfig(ProposalConfig):
    """Settings, which `--set tuner.NAME=VALUE` changes and config.json holds.

    `n_best` of the `n_proposals` actions for each state are imitated.
    """

    n_proposals: int = 16
    n_best: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.n_proposals:
            raise ValueError(f"n_best={self.n_best}: give 1 to n_proposals = {self.n_proposals}")


class BestOfK(ProposalTuner):
    """Minimises the denoising loss on the actions that the critic values most."""

    Config = BestOfKConfig

    def improve(self, obs: Tensor, n: int) -> dict[str, Tensor]:
        """Takes `n` grad_steps of psi at normalised states (n_states, obs_dim); returns metrics."""
        proposals = self.propose([self.reference, self.psi_average], obs)
        best = proposals.q.topk(self.config.n_best, dim=1).indices
        rows = torch.randint(len(obs), (n * self.config.policy_batch,))
        column = torch.randint(self.config.n_best, (len(rows),))
        loss = self.fit(obs[rows], proposals.actions[rows, best[rows, column]], n)
        return {"psi_loss": loss, "q_best": proposals.q.max(1).values.mean()}
