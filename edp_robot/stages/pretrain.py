"""Reward-free pre-training: a diffusion model of the visited states pays for unseen ones (method section 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sim.hold import Hold
from sim.registry import make_vec
from sim.spec import TaskSpec

from ..config import NoiseModelConfig, PretrainConfig
from ..diffusion.losses import denoising_loss
from ..diffusion.networks import NoiseModel, Normaliser
from ..explore.score_reward import ScoreReward
from ..rl.ddpg import DDPG
from ..rl.replay import Batch, Replay
from ..runs import Run
from .loop import Loop, Progress
from .observer import make_observer


def normaliser(spec: TaskSpec) -> Normaliser:
    """Returns the map of the spec's limits to [-1, 1]; elements without limits pass unchanged."""
    low, high = spec.obs_limits()
    known = np.isfinite(low) & np.isfinite(high)
    centre = np.where(known, (np.where(known, low, 0) + np.where(known, high, 0)) / 2, 0.0)
    scale = np.where(known, (np.where(known, high, 2) - np.where(known, low, 0)) / 2, 1.0)
    return Normaliser(torch.tensor(centre), torch.tensor(np.maximum(scale, 1e-6)))


def noise_model(dim: int, cond_dim: int, config: NoiseModelConfig) -> NoiseModel:
    """Returns a noise model of the configured sizes."""
    return NoiseModel(dim, cond_dim, config.width, config.inner, config.n_blocks, config.dropout, config.activation)


class Pretrainer(nn.Module):
    """Gaussian behaviour policy on the score reward, and the diffusion policy pi_d of what it did."""

    def __init__(self, spec: TaskSpec, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.normaliser = normaliser(spec)
        columns = [i for f in spec.obs if f.name in config.score_reward.fields for i in range(f.start, f.stop)]
        columns = columns or list(range(spec.obs_dim))
        sr = config.score_reward
        self.intrinsic = ScoreReward(
            noise_model(len(columns), 0, config.state_model),
            columns,
            n_draws=sr.n_draws,
            learning_rate=config.state_model.learning_rate,
            t_low=sr.t_low,
            t_high=sr.t_high,
            centre=sr.centre,
        )
        self.ddpg = DDPG(spec.obs_dim, spec.act_dim, config.ddpg)
        self.action_model = noise_model(spec.act_dim, spec.obs_dim, config.action_model)
        lr = config.action_model.learning_rate
        self.action_optimizer = torch.optim.Adam(self.action_model.parameters(), lr=lr, fused=True)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions of the Gaussian policy, (n, act_dim)."""
        return self.ddpg.explore(self.normaliser(torch.from_numpy(obs))).numpy()

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """`n_updates` grad_steps of everything; returns the last metrics."""
        metrics: dict[str, float] = {}
        for _ in range(n_updates):
            metrics = self.update_once(replay.sample(self.config.batch, self.config.ddpg.n_step))
        return metrics

    def update_once(self, batch: Batch) -> dict[str, float]:
        """One grad_step of the state model, the Gaussian policy and pi_d.

        The reward of a transition is R(s_{t+1}), of the state it led to, and each of n steps has its own; the authors'
        code pays R(s_t) (method section 4).
        """
        obs, next_obs = self.normaliser(batch.obs), self.normaliser(batch.next_obs)
        metrics = self.intrinsic.update(next_obs[:, 0])
        reward = self.intrinsic.reward(next_obs.reshape(-1, next_obs.shape[-1])).reshape(batch.reward.shape)
        normal = Batch(obs, batch.action, next_obs, batch.reward, batch.valid, batch.terminated)
        metrics |= self.ddpg.update(normal, reward)
        metrics["action_loss"] = self.update_action_model(obs, batch.action)
        return metrics

    def update_action_model(self, obs: Tensor, action: Tensor) -> float:
        """One grad_step of method Eq. 4's second term; returns the loss."""
        self.action_model.train()
        loss = denoising_loss(self.action_model, action, obs)
        self.action_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.action_optimizer.step()
        return loss.item()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns all optimizers by name."""
        return {
            "state": self.intrinsic.optimizer,
            "action": self.action_optimizer,
            "actor": self.ddpg.actor_optimizer,
            "critic": self.ddpg.critic_optimizer,
        }

    def state(self) -> dict[str, Any]:
        """Returns networks and optimizers as a tree."""
        optimizers = {k: o.state_dict() for k, o in self.optimizers().items()}
        return {"model": self.state_dict(), "noise": self.ddpg.noise, **optimizers}

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.load_state_dict(saved["model"])
        self.ddpg.noise = saved["noise"]
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
        return {}

    def state(self) -> dict[str, Any]:
        """Returns the random state."""
        return {"rng": self.rng.bit_generator.state}

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.rng.bit_generator.state = saved["rng"]


def pretrain(config: PretrainConfig, out: str, resume: bool = False) -> Progress:
    """Runs (or resumes) reward-free pre-training into the run folder `out`; returns where it ended.

    Raises:
        KeyError: unknown task. FileExistsError: `out` holds a run and resume is False. KeyboardInterrupt: saved.
    """
    torch.manual_seed(config.seed)
    env = Hold(make_vec(config.task, config.loop.n_envs, config.seed), config.loop.n_action_steps)
    spec = env.task_spec
    learner = Pretrainer(spec, config) if config.method == "edp" else RandomActor(spec.act_dim, config.seed)
    run = Run(out, config, resume)
    loop = Loop(config.loop, env, learner, run, config.seed, make_observer(config.task), f"pretrain {config.method}")
    if resume:
        loop.resume()
    try:
        return loop()
    finally:
        run.close()
        env.close()
