"""What learns while exploring: an intrinsic reward, behaviour policies, and the diffusion policies pi_d."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edp_robot.config.schema import PretrainConfig
from edp_robot.diffusion.losses import denoising_loss
from edp_robot.methods.ddpg import DDPG
from edp_robot.methods.explore.exact_score import ExactScoreReward
from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward
from edp_robot.methods.explore.particle import Particle
from edp_robot.methods.explore.rnd import RND
from edp_robot.methods.explore.score_reward import ScoreReward
from edp_robot.methods.replay import Batch, Replay
from edp_robot.training.models import noise_model, normaliser
from sim.core.spec import TaskSpec


def intrinsic_reward(spec: TaskSpec, config: PretrainConfig) -> IntrinsicReward:
    """Returns the configured intrinsic reward of `config.n_seeds` learners."""
    shared = {"n_seeds": config.n_seeds, "centre": config.centre_reward}
    if config.method == "rnd":
        return RND(spec.obs_dim, **shared, **vars(config.rnd))
    if config.method == "particle":
        return Particle(spec.obs_dim, **shared, **vars(config.particle))
    return _score_reward(spec, config, shared)


def _score_reward(
    spec: TaskSpec, config: PretrainConfig, shared: dict[str, Any]
) -> IntrinsicReward:
    score = config.score_reward
    named = [i for f in spec.obs if f.name in score.fields for i in range(f.start, f.stop)]
    columns = named or list(range(spec.obs_dim))

    def options(*names: str) -> dict[str, Any]:
        return {name: getattr(score, name) for name in names} | shared

    if score.estimator == "exact":
        return ExactScoreReward(columns, **options("t_low", "n_states", "pseudo_count"))
    model = noise_model(len(columns), 0, config.state_model, (config.n_seeds,))
    learned = options("estimator", "n_draws", "t_low", "t_high", "spacing")
    return ScoreReward(model, columns, learning_rate=config.state_model.learning_rate, **learned)


class Pretrainer(nn.Module):
    """Gaussian behaviour policies on an intrinsic reward, and the diffusion policies pi_d of what they did.

    `config.n_seeds` learners side by side, as stacked networks: each has its own environments, and none sees another's.
    """

    def __init__(self, spec: TaskSpec, config: PretrainConfig) -> None:
        super().__init__()
        self.config, self.n_updates = config, 0
        stack = (config.n_seeds,)
        self.normaliser = normaliser(spec)
        self.intrinsic = intrinsic_reward(spec, config)
        self.ddpg = DDPG(spec.obs_dim, spec.act_dim, config.ddpg, stack)
        self.action_model = noise_model(spec.act_dim, spec.obs_dim, config.action_model, stack)
        lr = config.action_model.learning_rate
        self.action_optimizer = torch.optim.Adam(self.action_model.parameters(), lr=lr, fused=True)

    @property
    def device(self) -> torch.device:
        """That the networks are on."""
        return self.normaliser.centre.device

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions of the Gaussian policies, (n_seeds * n_envs, act_dim)."""
        wide = self.normaliser(torch.from_numpy(obs).to(self.device)).unflatten(
            0, (self.config.n_seeds, -1)
        )
        return self.ddpg.explore(wide).flatten(0, 1).cpu().numpy()

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """`n_updates` grad_steps of everything; returns the last metrics, averaged over the seeds."""
        metrics: dict[str, Tensor] = {}
        for _ in range(n_updates):
            metrics |= self.update_once(
                replay.sample(self.config.batch, self.config.ddpg.n_step, self.device)
            )
        return {**{k: v.mean().item() for k, v in metrics.items()}, "grad_steps": self.n_updates}

    def update_once(self, batch: Batch) -> dict[str, Tensor]:
        """One grad_step of the intrinsic reward, the Gaussian policy and (every `action_model_every`-th time) pi_d.

        The reward of a transition is R(s_{t+1}), of the state it led to, and each of n steps has its own; the authors'
        code pays R(s_t) (method section 4).
        """
        obs, next_obs = self.normaliser(batch.obs), self.normaliser(batch.next_obs)
        metrics = self.intrinsic.update(next_obs[..., 0, :])
        reward = self.intrinsic.reward(next_obs.flatten(-3, -2)).reshape(batch.reward.shape)
        normal = Batch(obs, batch.action, next_obs, batch.reward, batch.valid, batch.terminated)
        metrics |= self.ddpg.update(normal, reward)
        if self.n_updates % self.config.action_model_every == 0:
            metrics["action_loss"] = self.update_action_model(obs, batch.action)
        self.n_updates += 1
        return metrics

    def update_action_model(self, obs: Tensor, action: Tensor) -> Tensor:
        """One grad_step of method Eq. 4's second term; returns the loss (n_seeds,)."""
        self.action_model.train()
        loss = denoising_loss(self.action_model, action, obs)
        self.action_optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.action_optimizer.step()
        return loss.detach()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns all optimizers by name."""
        own = {
            "action": self.action_optimizer,
            "actor": self.ddpg.actor_optimizer,
            "critic": self.ddpg.critic_optimizer,
        }
        return own | self.intrinsic.optimizers()

    def state(self) -> dict[str, Any]:
        """Returns networks and optimizers as a tree."""
        optimizers = {k: o.state_dict() for k, o in self.optimizers().items()}
        return {
            "model": self.state_dict(),
            "noise": self.ddpg.noise,
            "n_updates": self.n_updates,
            **optimizers,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.load_state_dict(saved["model"])
        self.ddpg.noise, self.n_updates = saved["noise"].to(self.device), saved["n_updates"]
        for key, optimizer in self.optimizers().items():
            optimizer.load_state_dict(saved[key])


class RandomActor:
    """Uniform actions: the row that every table of ours has."""

    def __init__(self, act_dim: int, seed: int) -> None:
        self.act_dim, self.rng = act_dim, np.random.default_rng(seed)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns uniform actions (n, act_dim)."""
        return self.rng.uniform(-1, 1, (len(obs), self.act_dim)).astype(np.float32)

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Learns nothing."""
        return {"grad_steps": 0}

    def state(self) -> dict[str, Any]:
        """Returns the random state."""
        return {"rng": self.rng.bit_generator.state}

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.rng.bit_generator.state = saved["rng"]
