"""`onestep`: a one-step policy climbs Q and is held to the diffusion policy (method Eq. 11).

mu(s, z) turns the sampler's noise z into an action in one network call. It starts as a paired
distillation of pi_d and then minimises

    w E ||mu(s, z) - ODE_d(s, z)||^2 - E Q(s, mu(s, z)) / mean |Q|

with the same z on both sides (flow Q-learning's loss, arXiv 2502.02538, for our sampler). No
gradient passes through the sampler, and the result needs no distillation. The squared distance
bounds the squared Wasserstein distance between mu's actions and pi_d's, so this is Eq. 6 with
another divergence. The weight w is no setting: it rises while the distance is above a share of
pi_d's own spread and falls while it is below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from edp_robot.deploy.policies import OneStepPolicy, best_of
from edp_robot.diffusion.solver import dpm_solver_pp
from edp_robot.methods.ddpg import DDPG, polyak_update
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS
from edp_robot.methods.finetune.gaussian import GaussianConfig, GaussianTuner
from edp_robot.methods.models import SMALL, NoiseModelConfig, noise_model
from edp_robot.methods.ranges import Natural
from edp_robot.methods.replay import Batch, Replay
from sim.core.spec import TaskSpec

WEIGHT_RATE = 0.01  # of w in log at each grad_step
LEAST_WEIGHT = 1e-4
MOST_WEIGHT = 1e3
TINY_Q = 1e-3  # mean |Q| counts as no less
TINY_DISTANCE = 1e-3  # nor the distance that is allowed, where pi_d always does the same


@dataclass(frozen=True)
class OneStepConfig(GaussianConfig):
    """DDPG's hyperparameters and how mu is held to pi_d.

    `distance_share` is the root mean square of mu - ODE_d in units of pi_d's spread, that of the
    difference between two of its actions in the same state. So with 1, mu is no farther from what
    pi_d does than pi_d is from itself. Each round draws ODE_d for `n_states` states with
    `reference_denoise_steps`. Before the first round mu takes `imitation_steps` grad_steps towards
    pi_d alone. The policy answers the best of `best_of` draws of z by the critic's Q.
    """

    action_model: NoiseModelConfig = SMALL
    distance_share: float = 1.0
    n_states: int = 1024
    reference_denoise_steps: int = 8
    imitation_steps: Natural = 1000
    best_of: int = 1


class LatentDDPG(DDPG):
    """DDPG whose actor also reads noise z of the action's length, drawn anew at each call."""

    @override
    def n_actor_inputs(self, obs_dim: int, act_dim: int) -> int:
        """Returns the length of an observation and its noise."""
        self.act_dim = act_dim
        return obs_dim + act_dim

    @override
    def pre_tanh(self, obs: Tensor, z: Tensor | None = None) -> Tensor:
        """Returns mu(s, z) before tanh (batch, act_dim).

        Args:
            obs: Normalised observations (batch, obs_dim).
            z: Noise (batch, act_dim). None: drawn here.
        """
        drawn = torch.randn(len(obs), self.act_dim, device=obs.device) if z is None else z
        return self.actor(torch.cat([obs, drawn], -1))


@FINE_TUNERS.register("onestep")
class OneStepTuner(GaussianTuner):
    """Climbs Q with mu(s, z), which stays within a distance of pi_d (method Eq. 11).

    From scratch there is no pi_d: then mu only climbs Q.
    """

    Config = OneStepConfig
    ddpg: LatentDDPG
    weight: Tensor
    held: Tensor
    imitated: Tensor
    spread: Tensor

    def __init__(self, spec: TaskSpec, config: OneStepConfig) -> None:
        super().__init__(spec, config)
        self.reference = noise_model(spec.act_dim, spec.obs_dim, config.action_model)
        self.reference.requires_grad_(False).eval()
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("held", torch.zeros(()))  # 1: there is a pi_d
        self.register_buffer("imitated", torch.zeros(()))  # 1: mu has been distilled from it
        self.register_buffer("spread", torch.zeros(()))  # of pi_d's actions in a state
        self._held_step = self.recorded(self._held_once)
        self._imitation_step = self.recorded(self._imitate_once)

    @override
    def make_learner(self) -> LatentDDPG:
        """Returns mu and the critic."""
        return LatentDDPG(self.spec.obs_dim, self.spec.act_dim, self.config)

    @override
    def make_policy(self) -> nn.Module:
        """Returns mu as it is deployed, and the critic's choice if any."""
        policy = OneStepPolicy(self.normaliser, self.ddpg.actor, self.spec.act_dim)
        return best_of(self.config.best_of, policy, self.normaliser, self.ddpg.critic_target)

    @override
    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions (n, act_dim): the policy's, with DDPG's noise."""
        noise = torch.randn(len(obs), int(self.policy.latent_dim))  # type: ignore[arg-type]
        return self.ddpg.with_noise(self.policy(torch.from_numpy(obs), noise)).numpy()

    @classmethod
    def preset(cls, preset: str, spec: TaskSpec) -> OneStepConfig:
        """Returns DDPG's settings, and pi_d's sizes for the preset."""
        shared = vars(super().preset(preset, spec))
        if preset == "paper":
            return OneStepConfig(**shared, action_model=NoiseModelConfig())
        return OneStepConfig(**shared)

    @classmethod
    def loop_changes(cls, preset: str) -> dict[str, Any]:
        """Returns rounds that are worth drawing pi_d's actions, as many grad_steps as DDPG's."""
        if preset == "paper":
            return {"decisions_per_update": 50, "updates_per_round": 50}
        return {"decisions_per_update": 5}

    @override
    def start_from(self, weights: Callable[[str], dict[str, Tensor]]) -> None:
        """Takes over the pre-trained diffusion policy, from which mu is distilled."""
        self.reference.load_state_dict(weights("action_model"))
        self.held.fill_(1)

    @override
    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Takes `n_updates` grad_steps; returns the last metrics."""
        if not self.held:
            return super().update(replay, n_updates, done)
        config = self.config
        if not self.imitated:
            self._imitate(replay)
        pool = self.reference_actions(replay)
        metrics: dict[str, Tensor] = {}
        for i in range(n_updates):
            batch = self.sample(replay, config.batch, config.n_step)
            metrics = self._held_step(*vars(batch).values(), *pool[i % len(pool)])
        return {name: value.item() for name, value in metrics.items()}

    def reference_actions(self, replay: Replay) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Returns batches of (normalised obs, z, ODE_d(s, z)), `n_states` rows in all.

        It also measures pi_d's spread there.
        """
        obs = self.sample(replay, self.config.n_states).obs
        z, action = self._draw(obs)
        other = self._draw(obs)[1]
        self.spread.copy_((action - other).square().mean().sqrt())
        size = min(self.config.batch, len(obs))
        parts = zip(obs.split(size), z.split(size), action.split(size), strict=True)
        return [part for part in parts if len(part[0]) == size]

    @torch.no_grad()
    def _draw(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (z, ODE_d(s, z)), both (n, act_dim), at normalised states (n, obs_dim)."""
        z = torch.randn(len(obs), self.spec.act_dim)
        n_steps = self.config.reference_denoise_steps
        return z, dpm_solver_pp(lambda x, t: self.reference(x, t, obs), z, n_steps)

    def _imitate(self, replay: Replay) -> None:
        """Distils pi_d into mu, before the first round."""
        n_left = self.config.imitation_steps
        while n_left > 0:
            pool = self.reference_actions(replay)
            for part in (pool * 5)[:n_left]:
                self._imitation_step(*part)
            n_left -= 5 * len(pool)
        self.imitated.fill_(1)

    def squared_distance(self, obs: Tensor, z: Tensor, action: Tensor) -> Tensor:
        """Returns the mean of (mu(s, z) - ODE_d(s, z))^2, a scalar.

        Args:
            obs: Normalised observations (batch, obs_dim).
            z: The noise of both (batch, act_dim).
            action: ODE_d(s, z) (batch, act_dim).
        """
        return (torch.tanh(self.ddpg.pre_tanh(obs, z)) - action).square().mean()

    def _imitate_once(self, obs: Tensor, z: Tensor, action: Tensor) -> dict[str, Tensor]:
        loss = self.squared_distance(obs, z, action)
        self.ddpg.actor_optimizer.descend(loss)
        return {"distance": loss.detach().sqrt()}

    def _held_once(self, *fields: Tensor) -> dict[str, Tensor]:
        batch = Batch(*fields[:-3])
        critic_loss = self.ddpg.update_critic(batch, batch.reward)
        q, penalty = self.ddpg.values(batch.obs)
        value = q.mean() / q.detach().abs().mean().clamp(min=TINY_Q)
        squared = self.squared_distance(*fields[-3:])
        self.ddpg.actor_optimizer.descend(self.weight * squared + penalty - value)
        self._weigh(squared.detach())
        polyak_update(self.ddpg.critic_target, self.ddpg.critic, self.config.polyak)
        return {
            "critic_loss": critic_loss.detach(),
            "value": q.detach().mean(),
            "reward": batch.reward.mean(),
            "distance": squared.detach().sqrt(),
            "weight": self.weight.clone(),
        }

    def _weigh(self, squared: Tensor) -> None:
        """Moves w up where mu is farther from pi_d than its share of the spread, else down."""
        allowed = (self.config.distance_share * self.spread).clamp(min=TINY_DISTANCE)
        excess = (squared / allowed**2 - 1).clamp(-1, 1)
        self.weight.mul_(torch.exp(WEIGHT_RATE * excess)).clamp_(LEAST_WEIGHT, MOST_WEIGHT)
