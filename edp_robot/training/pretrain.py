"""Reward-free pre-training: an intrinsic reward pays for unseen states (method section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from edp_robot.diffusion.losses import denoising_loss
from edp_robot.engine import Adam, Recorded
from edp_robot.methods.ddpg import DDPG, DDPGConfig
from edp_robot.methods.doors import NoConfig, check_config, stored_config_class
from edp_robot.methods.explore.intrinsic_reward import (
    INTRINSIC_REWARDS,
    IntrinsicReward,
    reward_class,
)
from edp_robot.methods.explore.score_config import ScoreRewardConfig
from edp_robot.methods.learner import Learner
from edp_robot.methods.models import NoiseModelConfig, noise_model, normaliser
from edp_robot.methods.obs_statistics import follow
from edp_robot.methods.ranges import Natural, Seed
from edp_robot.methods.replay import Batch, Replay
from edp_robot.training.chunks import cosine_rate
from edp_robot.training.devices import CPU, seed_all
from edp_robot.training.loop_config import LoopConfig, Progress
from edp_robot.training.observe import make_observer
from edp_robot.training.runs import RUN_CONFIGS, Run, RunConfig
from edp_robot.training.train_loop import Loop
from sim.core.hold import Hold
from sim.core.registry import make_vec
from sim.core.spec import TaskSpec


@RUN_CONFIGS.register("PretrainConfig")
@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Pre-training without reward: `n_seeds` independent learners at once, drawn from one `seed`.

    `method` names an intrinsic reward and `reward` holds its config. `centre_reward` subtracts the
    running mean of the intrinsic reward.

    pi_d takes no part in exploring. It takes one grad_step for `action_model_every` of the
    behaviour policy's (0: none), and `loop.final_updates` of `final_batch` transitions after the
    last env_step, at a learning rate that falls as a cosine.
    """

    TITLE = "pre-training"
    COMMAND = "edp pretrain"
    POLICY = "action_model"
    LENGTH = "loop.env_steps"
    MAY_CHANGE = ("loop.max_cpu_s",)
    task: str = "arm"
    method: str = "edp"
    seed: Seed = 0
    n_seeds: int = 1
    loop: LoopConfig = field(default_factory=LoopConfig)
    ddpg: DDPGConfig = field(default_factory=DDPGConfig)
    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    reward: Any = field(default_factory=ScoreRewardConfig)
    centre_reward: bool = False
    action_model_every: Natural = 1
    batch: int = 256
    final_batch: int = 512

    @classmethod
    def part_classes(cls, values: Mapping[str, Any]) -> dict[str, type]:
        """Returns the class of `reward`, which `method` decides."""
        return {"reward": stored_config_class(INTRINSIC_REWARDS, values["method"], NoConfig)}


def intrinsic_reward(spec: TaskSpec, config: PretrainConfig) -> IntrinsicReward:
    """Returns the configured intrinsic reward of `config.n_seeds` learners.

    Raises:
        ValueError: There is no such method, or `config.reward` is the config of another one.
    """
    made = reward_class(config.method)
    check_config("reward", config.reward, config.method, made)
    form = made.form(config.reward)
    return form(spec, config.reward, n_seeds=config.n_seeds, centre=config.centre_reward)


class Pretrainer(nn.Module, Learner):
    """Gaussian behaviour policies on an intrinsic reward, and diffusion policies of what they did.

    `config.n_seeds` learners are trained side by side, as stacked networks. Each has its own
    environments, and none sees those of another.
    """

    def __init__(self, spec: TaskSpec, config: PretrainConfig) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.n_updates = 0
        stack = (config.n_seeds,)
        self.normaliser = normaliser(spec)
        self.intrinsic = intrinsic_reward(spec, config)
        self.ddpg = DDPG(spec.obs_dim, spec.act_dim, config.ddpg, stack)
        self.action_model = noise_model(spec.act_dim, spec.obs_dim, config.action_model, stack)
        rate = config.action_model.learning_rate
        self.action_optimizer = Adam(self.action_model.parameters(), rate)
        self._steps = {
            "reward": Recorded(self.update_reward, self.intrinsic.recordable),
            "policy": Recorded(self.update_policy),
            "action": Recorded(self.update_action_model),
        }

    @property
    def device(self) -> torch.device:
        """Returns the device that the networks are on."""
        return self.normaliser.centre.device

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions of the Gaussian policies (n_seeds * n_envs, act_dim)."""
        by_seed = torch.from_numpy(obs).to(self.device).unflatten(0, (self.config.n_seeds, -1))
        return self.ddpg.explore(self.normaliser(by_seed)).flatten(0, 1).cpu().numpy()

    def follow(self, replay: Replay) -> None:
        """Lets the normaliser follow the replay."""
        follow(self.normaliser, self.spec, replay)

    @override
    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Takes `n_updates` grad_steps of all networks; returns the last metrics, seed mean."""
        metrics: dict[str, Tensor] = {}
        for _ in range(n_updates):
            batch = replay.sample(self.config.batch, self.config.ddpg.n_step, self.device)
            metrics |= self.update_once(batch.normalised(self.normaliser))
        return {**{k: v.mean().item() for k, v in metrics.items()}, "grad_steps": self.n_updates}

    def update_once(self, batch: Batch) -> dict[str, Tensor]:
        """Takes one grad_step of intrinsic reward and Gaussian policy, and of pi_d when it is due.

        Args:
            batch: Transitions with normalised observations.
        """
        rewarded = self._steps["reward"](batch.next_obs)
        metrics = self._steps["policy"](*vars(replace(batch, reward=rewarded["reward"])).values())
        every = self.config.action_model_every
        if every and self.n_updates % every == 0:
            metrics = metrics | self._steps["action"](batch.obs, batch.action)
        self.n_updates += 1
        return rewarded | metrics

    def update_reward(self, next_obs: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step of the intrinsic reward; returns metrics and the batch's `reward`.

        A transition is paid R(s_{t+1}), for the state it led to, and each of n steps is paid its
        own. The authors' code pays R(s_t) (method section 4).

        Args:
            next_obs: (n_seeds, batch, n_step, obs_dim), normalised.
        """
        metrics = self.intrinsic.update(next_obs[..., 0, :])
        reward = self.intrinsic.reward(next_obs.flatten(-3, -2))
        return metrics | {"reward": reward.reshape(next_obs.shape[:-1])}

    def update_policy(self, *fields: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step of actor and critic; returns metrics (n_seeds,).

        Args:
            *fields: Those of a Batch with normalised observations and intrinsic rewards.
        """
        batch = Batch(*fields)
        return self.ddpg.update(batch, batch.reward)

    def update_action_model(self, obs: Tensor, action: Tensor) -> dict[str, Tensor]:
        """Takes one grad_step of method Eq. 4's second term; returns the loss (n_seeds,)."""
        self.action_model.train()
        loss = denoising_loss(self.action_model, action, obs)
        self.action_optimizer.descend(loss)
        return {"action_loss": loss.detach()}

    def finish(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Takes grad_steps of pi_d alone; returns the last loss, seed mean.

        Args:
            replay: What was collected.
            n_updates: grad_steps.
            done: Share of all final grad_steps that is over.
        """
        config = self.config
        rate = cosine_rate(config.action_model.learning_rate, done)
        self.action_optimizer.set_rate(rate)
        metrics: dict[str, Tensor] = {}
        for _ in range(n_updates):
            batch = replay.sample(config.final_batch, 1, self.device)
            metrics = self._steps["action"](self.normaliser(batch.obs), batch.action)
        return {name: value.mean().item() for name, value in metrics.items()}

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
        optimizers = {name: o.state_dict() for name, o in self.optimizers().items()}
        counted = {"noise": self.ddpg.noise, "n_updates": self.n_updates}
        counted["follows"] = not self.normaliser.frozen
        return {"model": self.state_dict(), **counted, **optimizers}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.load_state_dict(saved["model"])
        self.normaliser.frozen = not saved.get("follows")
        self.ddpg.noise = saved["noise"].to(self.device)
        self.n_updates = saved["n_updates"]
        for name, optimizer in self.optimizers().items():
            optimizer.load_state_dict(saved[name])
        for step in self._steps.values():
            step.forget()


class RandomActor(Learner):
    """Acts uniformly and learns nothing, the baseline of every exploration table."""

    def __init__(self, act_dim: int, seed: int) -> None:
        self.act_dim = act_dim
        self.rng = np.random.default_rng(seed)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns uniform actions (n, act_dim)."""
        return self.rng.uniform(-1, 1, (len(obs), self.act_dim)).astype(np.float32)

    @override
    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """Learns nothing."""
        return {"grad_steps": 0}

    def state(self) -> dict[str, Any]:
        """Returns the random state."""
        return {"rng": self.rng.bit_generator.state}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.rng.bit_generator.state = saved["rng"]


def pretrain(
    config: PretrainConfig, out: str, resume: bool = False, device: torch.device = CPU
) -> Progress:
    """Pre-trains into a run folder; returns where the run ended.

    The `config.n_seeds` learners are trained at once on `device`. env_steps are those of one of
    them. The worlds and the replay stay on the CPU.

    Args:
        config: Task, method and sizes.
        out: Run folder.
        resume: Whether to go on from the folder's checkpoint.
        device: Where the networks are.

    Raises:
        ValueError: There is no such task or method.
        FileExistsError: `out` holds a run and `resume` is False.
        KeyboardInterrupt: A signal stopped the run. Its checkpoint is saved.
    """
    seed_all(config.seed)
    n_seeds = config.n_seeds
    n_action_steps = config.loop.n_action_steps
    env = Hold(make_vec(config.task, n_seeds * config.loop.n_envs, config.seed), n_action_steps)
    spec = env.task_spec
    learner = RandomActor(spec.act_dim, config.seed)
    if reward_class(config.method).learns:
        learner = Pretrainer(spec, config).to(device)
    with Run(out, config, resume) as run:
        loop = Loop(
            config.loop,
            env,
            learner,
            run,
            seed=config.seed,
            observer=make_observer(spec, n_seeds),
            title=f"pretrain {config.method}",
            n_seeds=n_seeds,
            device=device,
        )
        if resume:
            loop.resume()
        return loop()
