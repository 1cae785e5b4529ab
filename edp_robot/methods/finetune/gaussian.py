"""`ddpg`: fine-tunes the Gaussian policy by DDPG, the paper's main way on URLB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from edp_robot.deploy.policies import GaussianPolicy
from edp_robot.methods.ddpg import DDPG, DDPGConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS, FineTuner
from edp_robot.methods.replay import Batch, Replay
from sim.core.spec import TaskSpec

HELD_UPDATES = 2.0  # grad_steps for each transition of a task that holds its actions
UPDATES = 0.5
HELD: dict[str, Any] = {"discount": 0.95, "n_step": 1}  # a decision lasts many control steps
PLAIN: dict[str, Any] = {"discount": 0.99, "n_step": 3}


@dataclass(frozen=True)
class GaussianConfig(DDPGConfig):
    """DDPG's hyperparameters and the transitions in a batch."""

    batch: int = 256


@FINE_TUNERS.register("ddpg")
class GaussianTuner(FineTuner):
    """DDPG on the task's reward, with the actor of the pre-training."""

    Config = GaussianConfig

    def __init__(self, spec: TaskSpec, config: GaussianConfig) -> None:
        super().__init__(spec, config)
        self.ddpg = self.make_learner()
        self._step = self.recorded(self._update_once)
        self.policy = self.make_policy()

    def make_learner(self) -> DDPG:
        """Returns actor and critic."""
        return DDPG(self.spec.obs_dim, self.spec.act_dim, self.config)

    def make_policy(self) -> nn.Module:
        """Returns the actor as it is deployed."""
        return GaussianPolicy(self.normaliser, self.ddpg.actor, self.spec.act_dim)

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> GaussianConfig:
        """Returns the paper's settings, or smaller networks and more exploration."""
        if preset == "paper":
            return GaussianConfig(width=1024, layer_norm=False, learning_rate=1e-4, n_step=3)
        per_decision = HELD if spec.hold > 1 else PLAIN
        return GaussianConfig(
            width=128, explore_noise=(0.05, 0.6), pre_tanh_penalty=0.01, **per_decision
        )

    @classmethod
    def loop_changes(cls, preset: str) -> dict[str, Any]:
        """Returns an update at every decision: DDPG gains nothing from rounds."""
        return {} if preset == "paper" else {"decisions_per_update": 1}

    @classmethod
    def updates_per_transition(cls, preset: str, spec: TaskSpec) -> float | None:
        """Returns more where actions are held, because such a task has fewer transitions."""
        if preset == "paper":
            return None
        return HELD_UPDATES if spec.hold > 1 else UPDATES

    def start_from(self, weights: Callable[[str], dict[str, Tensor]]) -> None:
        """Starts the actor as the pre-trained Gaussian policy."""
        self.ddpg.actor.load_state_dict(weights("ddpg.actor"))

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions (n, act_dim)."""
        return self.ddpg.explore(self.normaliser(torch.from_numpy(obs))).numpy()

    @override
    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Takes `n_updates` grad_steps; returns the last metrics."""
        metrics: dict[str, Tensor] = {}
        for _ in range(n_updates):
            batch = self.sample(replay, self.config.batch, self.config.n_step)
            metrics = self._step(*vars(batch).values())
        return {name: value.item() for name, value in metrics.items()}

    def _update_once(self, *fields: Tensor) -> dict[str, Tensor]:
        batch = Batch(*fields)
        return self.ddpg.update(batch, batch.reward)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the optimizers of actor and critic."""
        return {"actor": self.ddpg.actor_optimizer, "critic": self.ddpg.critic_optimizer}

    def state(self) -> dict[str, Any]:
        """Returns networks, optimizers and the exploration noise as a tree."""
        return {**super().state(), "noise": self.ddpg.noise}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        super().load(saved)
        self.ddpg.noise = saved["noise"]
