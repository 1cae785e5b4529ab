"""What diffusion fine-tuners share: IQL's critic, the reference, psi and its running average."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.diffusion.networks import NoiseModel
from edp_robot.methods.ddpg import polyak_update
from edp_robot.methods.finetune.fine_tuner import FineTuner
from edp_robot.methods.iql import IQL, IQLConfig
from edp_robot.methods.models import SMALL, NoiseModelConfig, noise_model
from edp_robot.methods.ranges import Ranged, Rate, Share
from edp_robot.methods.replay import Replay
from sim.core.spec import TaskSpec


@dataclass(frozen=True)
class DiffusionTunerConfig(Ranged):
    """Settings of the critic, the noise model and one round of improvement (method section 3).

    A round draws `n_states` states. The policy takes `grad_steps_per_update` grad_steps for each of
    the critic's. `polyak` is the rate of psi's running average. Learning rates fall linearly to a
    tenth over what follows the share `anneal_from` of the run.
    """

    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    iql: IQLConfig = field(default_factory=IQLConfig)
    batch: int = 256
    acting_denoise_steps: int = 15
    anneal_from: Share = 0.6
    n_states: int = 1024
    policy_batch: int = 256
    polyak: Rate = 0.01
    grad_steps_per_update: float = 1.0


class DiffusionTuner(FineTuner):
    """Fits pi_n = pi exp(Q / beta) / Z (method Eq. 7) in rounds: first the critic, then the policy.

    psi starts as pi_d. Its running average acts, and is what is distilled: the paper samples
    score_psi directly, and so do we. A subclass defines `improve`, the policy's part of a round.
    """

    Config = DiffusionTunerConfig
    reference: NoiseModel
    psi: NoiseModel
    psi_average: NoiseModel

    def __init__(self, spec: TaskSpec, config: Any) -> None:
        super().__init__(spec, config)
        model = noise_model(spec.act_dim, spec.obs_dim, config.action_model)
        self.reference = model.requires_grad_(False).eval()
        self.psi = copy.deepcopy(model).requires_grad_(True)
        self.psi_average = copy.deepcopy(model)
        self.policy = DiffusionPolicy(
            self.normaliser, self.psi_average, spec.act_dim, config.acting_denoise_steps
        )
        self.iql = IQL(spec.obs_dim, spec.act_dim, config.iql)
        self.psi_optimizer = torch.optim.Adam(
            self.psi.parameters(), lr=config.action_model.learning_rate, fused=True
        )

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> Any:
        """Returns the paper's settings, or smaller networks and a faster critic."""
        if preset == "paper":
            return replace(cls.Config(), iql=IQLConfig(layer_norm=False), anneal_from=1.0)
        return replace(
            cls.Config(),
            action_model=replace(SMALL, learning_rate=1e-3),
            iql=IQLConfig(
                width=128, learning_rate=5e-4, polyak=0.01, discount=0.95, n_step=5, expectile=0.9
            ),
            acting_denoise_steps=8,
            n_states=512,
        )

    def start_from(self, weights: Callable[[str], dict[str, Tensor]]) -> None:
        """Starts psi, its average and the reference as the pre-trained diffusion policy."""
        pretrained = weights("action_model")
        for model in (self.reference, self.psi, self.psi_average):
            model.load_state_dict(pretrained)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns samples of psi's average (n, act_dim)."""
        noise = torch.randn(len(obs), self.spec.act_dim)
        return self.policy(torch.from_numpy(obs), noise).numpy()

    @override
    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Runs one round: `n_updates` grad_steps of the critic (Eq. 8), then the policy's."""
        config = self.config
        late = max(0.0, done - config.anneal_from) / max(1e-6, 1 - config.anneal_from)
        share = 1 - 0.9 * late
        set_learning_rate(self.iql.optimizer, config.iql.learning_rate * share)
        set_learning_rate(self.psi_optimizer, config.action_model.learning_rate * share)
        metrics: dict[str, float] = {}
        for _ in range(n_updates):
            metrics = self.iql.update(self.sample(replay, config.batch, config.iql.n_step))
        obs = self.sample(replay, config.n_states).obs
        n = max(1, round(n_updates * config.grad_steps_per_update))
        return metrics | self.improve(obs, n)

    def improve(self, obs: Tensor, n: int) -> dict[str, float]:
        """Takes `n` grad_steps of psi at normalised states (n_states, obs_dim); returns metrics."""
        raise NotImplementedError

    def grad_step(self, loss: Tensor) -> float:
        """Takes one step of psi down `loss`, after which the average follows; returns the loss."""
        self.psi_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.psi_optimizer.step()
        polyak_update(self.psi_average, self.psi, self.config.polyak)
        return loss.item()

    def final_policy(self) -> DiffusionPolicy:
        """Returns psi's average with the full sampler."""
        return DiffusionPolicy(self.normaliser, self.psi_average, self.spec.act_dim)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the critic's and psi's optimizers."""
        return {"iql": self.iql.optimizer, "psi": self.psi_optimizer}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
