"""What diffusion fine-tuners share: IQL's critic, the reference, psi and its running average."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from edp_robot.deploy.policies import DiffusionPolicy, best_of
from edp_robot.diffusion.losses import denoising_loss
from edp_robot.diffusion.networks import NoiseModel
from edp_robot.engine import Adam, Recorded
from edp_robot.methods.ddpg import polyak_update
from edp_robot.methods.finetune.fine_tuner import FineTuner
from edp_robot.methods.iql import IQL, IQLConfig
from edp_robot.methods.models import SMALL, NoiseModelConfig, noise_model
from edp_robot.methods.ranges import Ranged, Rate, Share
from edp_robot.methods.replay import Batch, Replay
from sim.core.spec import TaskSpec

FULL_STEPS = 15  # denoising steps of evaluation


@dataclass(frozen=True)
class DiffusionTunerConfig(Ranged):
    """Settings of the critic, the noise model and one round of improvement (method section 3).

    A round draws `n_states` states. The policy takes `grad_steps_per_update` grad_steps for each of
    the critic's. `polyak` is the rate of psi's running average. Learning rates fall linearly to a
    tenth over what follows the share `anneal_from` of the run. Acting draws `best_of` actions, of
    which the critic chooses one.
    """

    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    iql: IQLConfig = field(default_factory=IQLConfig)
    batch: int = 256
    acting_denoise_steps: int = 15
    anneal_from: Share = 0.6
    n_states: int = 1024
    policy_batch: int = 256
    polyak: Rate = 0.01
    best_of: int = 1
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
        self.iql = self.make_critic()
        self.policy = self.make_policy(config.acting_denoise_steps)
        self.psi_optimizer = Adam(self.psi.parameters(), config.action_model.learning_rate)
        self._critic_step = self.recorded(self._critic_once)
        self._fit_step = self.recorded(self._fit_once)

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> Any:
        """Returns the paper's settings, or smaller networks and a faster critic."""
        if preset == "paper":
            return replace(cls.Config(), iql=IQLConfig(layer_norm=False), anneal_from=1.0)
        return replace(
            cls.Config(),
            action_model=replace(SMALL, learning_rate=1e-3),
            iql=IQLConfig(
                width=128,
                learning_rate=5e-4,
                polyak=0.01,
                discount=0.95 if spec.hold > 1 else 0.99,
                n_step=3,
                expectile=0.9,
            ),
            acting_denoise_steps=8,
            anneal_from=0.4,
            n_states=1024,
            polyak=0.005,
        )

    def start_from(self, weights: Callable[[str], dict[str, Tensor]]) -> None:
        """Starts psi, its average and the reference as the pre-trained diffusion policy."""
        pretrained = weights("action_model")
        for model in (self.reference, self.psi, self.psi_average):
            model.load_state_dict(pretrained)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns samples of psi's average (n, act_dim)."""
        noise = torch.randn(len(obs), int(self.policy.latent_dim))  # type: ignore[arg-type]
        return self.policy(torch.from_numpy(obs), noise).numpy()

    @override
    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Runs one round: `n_updates` grad_steps of the critic (Eq. 8), then the policy's."""
        config = self.config
        late = max(0.0, done - config.anneal_from) / max(1e-6, 1 - config.anneal_from)
        share = 1 - 0.9 * late
        self.iql.optimizer.set_rate(config.iql.learning_rate * share)
        self.psi_optimizer.set_rate(config.action_model.learning_rate * share)
        metrics: dict[str, Any] = {}
        seen = self.sample(replay, config.n_states, config.iql.n_step)
        parts = self.begin_round(seen.obs)
        for i in range(n_updates):
            batch = self.sample(replay, config.batch, config.iql.n_step)
            metrics = self._critic_step(*vars(batch).values(), *parts[i % len(parts)])
        n = max(1, round(n_updates * config.grad_steps_per_update))
        metrics = metrics | self.improve_on(seen, n)
        return {name: float(value) for name, value in metrics.items()}

    def make_critic(self) -> IQL:
        """Returns the critic."""
        return IQL(self.spec.obs_dim, self.spec.act_dim, self.config.iql)

    def begin_round(self, obs: Tensor) -> list[tuple[Tensor, ...]]:
        """Prepares a round at normalised states (n_states, obs_dim), those that `improve` gets.

        Returns what the critic's grad_steps take besides transitions, used in turn; here nothing.
        """
        return [()]

    def improve_on(self, seen: Batch, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi; returns metrics. Here it passes the states to `improve`.

        Args:
            seen: `n_states` transitions with normalised observations. A method that learns from
                their actions defines this instead of `improve`.
            n: grad_steps.
        """
        return self.improve(seen.obs, n)

    def improve(self, obs: Tensor, n: int) -> dict[str, Any]:
        """Takes `n` grad_steps of psi at normalised states (n_states, obs_dim); returns metrics."""
        raise NotImplementedError

    def fit(self, obs: Tensor, actions: Tensor, n: int) -> Tensor:
        """Takes `n` grad_steps of psi down the denoising loss (method Eq. 4); returns the last.

        Each takes the next `policy_batch` rows, from the start again after the last.

        Args:
            obs: Normalised states (m, obs_dim).
            actions: What psi is to do there (m, act_dim).
            n: grad_steps.
        """
        self.psi.train()
        size = self.config.policy_batch
        batches = list(zip(obs.split(size), actions.split(size), strict=True))
        loss = torch.zeros(())
        for i in range(n):
            loss = self._fit_step(*batches[i % len(batches)])["loss"]
        return loss

    def on_rows(
        self, step: Recorded, n: int, parts: Sequence[Tensor], size: int | None = None
    ) -> dict[str, Any]:
        """Takes `n` grad_steps, each on rows of `parts` drawn at random; returns the last metrics.

        Args:
            step: The grad_step, which takes a batch of each part.
            n: grad_steps.
            parts: Tensors (m, ...).
            size: Rows of a batch. None: `policy_batch`.
        """
        self.psi.train()
        metrics: dict[str, Any] = {}
        for _ in range(n):
            rows = torch.randint(len(parts[0]), (size or self.config.policy_batch,))
            metrics = step(*(part[rows] for part in parts))
        return metrics

    def _critic_once(self, *fields: Tensor) -> dict[str, Tensor]:
        return self.iql.update(Batch(*fields))

    def _fit_once(self, obs: Tensor, actions: Tensor) -> dict[str, Tensor]:
        return {"loss": self.grad_step(denoising_loss(self.psi, actions, obs))}

    def grad_step(self, loss: Tensor) -> Tensor:
        """Takes one step of psi down `loss`, after which the average follows; returns the loss."""
        self.psi_optimizer.descend(loss)
        polyak_update(self.psi_average, self.psi, self.config.polyak)
        return loss.detach()

    def make_policy(self, n_denoise_steps: int) -> nn.Module:
        """Returns psi's average with so many denoising steps, and the critic's choice if any."""
        policy = DiffusionPolicy(
            self.normaliser, self.psi_average, self.spec.act_dim, n_denoise_steps
        )
        k = self.config.best_of
        return best_of(k, policy, self.normaliser, self.iql.critic_target)

    def final_policy(self) -> nn.Module:
        """Returns psi's average with the full sampler."""
        return self.make_policy(FULL_STEPS)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the critic's and psi's optimizers."""
        return {"iql": self.iql.optimizer, "psi": self.psi_optimizer}
