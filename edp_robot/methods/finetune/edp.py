"""`edp`: the diffusion policy becomes pi_d exp(Q / beta) / Z with the soft Q (method Eq. 6, 7).

Each round draws K actions of pi_d for some states. The critic backs up their soft value, from which
beta KL(pi || pi_d) is subtracted; without it the alternation of Eq. 7 misses the optimum of Eq. 6.
Then psi is fitted by the denoising loss to actions resampled with probability softmax(Q / beta),
which are samples of pi_n; the paper's guidance network (`edp-guidance`) aims at the same.

The reference is pi_d itself, in every round. A mixture with the policy so far (`resampling`) moves
the reference along and drifts to the greedy policy.

beta needs no tuning a task: each round finds the one at which the mean KL to pi_d is `target_kl`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.finetune.proposals import ProposalConfig, Proposals, ProposalTuner
from edp_robot.methods.finetune.soft import inverse_temp_for, kl_to_reference
from edp_robot.methods.ranges import NotNegative
from edp_robot.methods.replay import Batch
from edp_robot.methods.soft_q import SoftQ
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class SoftConfig(ProposalConfig):
    """The temperature's rule, and the states of a grad_step of V.

    With `target_kl` [nats] above 0, each round finds 1 / beta anew. With 0, `inverse_temp` stays as
    it is, which is Eq. 6 with a fixed beta.
    """

    target_kl: NotNegative = 1.0
    value_batch: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        most = math.log(self.n_proposals)
        if self.target_kl >= most:
            raise ValueError(
                f"target_kl={self.target_kl:g}: give less than log(n_proposals) = {most:.3g}, the "
                "farthest that so many actions can be from the reference"
            )


@FINE_TUNERS.register("edp")
class SoftTuner(ProposalTuner):
    """Alternates the soft Q of pi_d exp(Q / beta) and the fit of psi to it (Eq. 7)."""

    Config = SoftConfig
    iql: SoftQ
    inverse_temp: Tensor
    support: Proposals

    def __init__(self, spec: TaskSpec, config: SoftConfig) -> None:
        super().__init__(spec, config)
        self.register_buffer("inverse_temp", torch.tensor(float(config.inverse_temp)))

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> SoftConfig:
        """Returns ProposalTuner's settings, with fewer proposals where not the paper's."""
        config = super().preset(preset, spec)
        if preset == "paper":
            return config
        return replace(config, relative_temp=False, n_states=512)

    @override
    def make_critic(self) -> SoftQ:
        """Returns the soft critic."""
        return SoftQ(self.spec.obs_dim, self.spec.act_dim, self.config.iql)

    @override
    def begin_round(self, obs: Tensor) -> list[tuple[Tensor, ...]]:
        """Draws the support actions of pi_d, sets the temperature; returns V's batches."""
        self.support = self.propose([self.reference], obs)
        if self.config.target_kl:
            self.inverse_temp.fill_(inverse_temp_for(self.support.q, self.config.target_kl))
        size = min(self.config.value_batch, len(obs))
        whole = len(obs) // size * size
        parts = zip(obs[:whole].split(size), self.support.actions[:whole].split(size), strict=True)
        return [(*part, self.inverse_temp.clone()) for part in parts]

    @override
    def _critic_once(self, *fields: Tensor) -> dict[str, Tensor]:
        return self.iql.update_soft(Batch(*fields[:-3]), *fields[-3:])

    @override
    def improve(self, obs: Tensor, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi at normalised states (n_states, obs_dim); returns metrics."""
        valued = self.valued(obs, self.support.actions)
        rows = torch.randint(len(obs), (n * self.config.policy_batch,))
        chosen = valued.resample(rows, float(self.inverse_temp))
        loss = self.fit(obs[rows], chosen, n)
        kl = kl_to_reference(valued.q, self.inverse_temp).mean()
        return {"psi_loss": loss, "kl": kl, "inverse_temp": self.inverse_temp.clone()}
