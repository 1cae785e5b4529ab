"""Fine-tuning to a task reward, both ways: the Gaussian policy by DDPG, the diffusion policy by method Eq. 8-10."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import trange

from edp_robot.config.schema import FinetuneConfig
from edp_robot.deploy.policies import DiffusionPolicy, GaussianPolicy
from edp_robot.diffusion.networks import NoiseModel, Normaliser
from edp_robot.methods.ddpg import DDPG
from edp_robot.methods.finetune.improve import GuidedImprovement, PolicyModels, ResampledImprovement
from edp_robot.methods.iql import IQL
from edp_robot.methods.replay import Batch, Replay
from edp_robot.methods.replay_mix import MixedReplay, relabelled, sampler_state, set_sampler_state
from edp_robot.training.actor import torch_actor
from edp_robot.training.models import noise_model, normaliser
from edp_robot.training.observe import make_observer
from edp_robot.training.pretrained import load_pretrained
from edp_robot.training.runs import Run, from_dict, load_tree, read_config
from edp_robot.training.train_loop import Loop, Progress
from sim.core.evaluate import Evaluation, evaluate
from sim.core.hold import Hold
from sim.core.registry import make_vec, task_spec
from sim.core.spec import TaskSpec


def normalised(batch: Batch, norm: Normaliser) -> Batch:
    """Returns the batch with normalised observations."""
    return Batch(
        norm(batch.obs),
        batch.action,
        norm(batch.next_obs),
        batch.reward,
        batch.valid,
        batch.terminated,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value


class DiffusionTuner(nn.Module):
    """pi_n = pi exp(Q / beta) / Z (method Eq. 7): an IQL critic and a way to improve the policy, in rounds.

    psi starts as pi_d; its running average acts and is what is distilled: [P] samples score_psi directly, and so do we.
    """

    def __init__(self, spec: TaskSpec, config: FinetuneConfig, reference: NoiseModel) -> None:
        super().__init__()
        self.config, self.prior = config, None
        self.normaliser = normaliser(spec)
        self.reference = reference.requires_grad_(False).eval()
        self.psi = copy.deepcopy(reference).requires_grad_(True)
        self.psi_average = copy.deepcopy(reference)
        self.policy = DiffusionPolicy(
            self.normaliser, self.psi_average, spec.act_dim, config.acting_denoise_steps
        )
        self.iql = IQL(spec.obs_dim, spec.act_dim, config.iql)
        improvement = ResampledImprovement if config.method == "edp" else GuidedImprovement
        self.improvement = improvement(spec.obs_dim, spec.act_dim, config.improve)
        self.psi_optimizer = torch.optim.Adam(
            self.psi.parameters(), lr=config.action_model.learning_rate, fused=True
        )

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns samples of psi's average (n, act_dim)."""
        return self.policy(
            torch.from_numpy(obs), torch.randn(len(obs), self.policy.latent_dim)
        ).numpy()

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """One round: `n_updates` grad_steps of the critic (Eq. 8), then the policy's."""
        source, config = (
            MixedReplay(self.prior, replay) if self.prior is not None else replay,
            self.config,
        )
        metrics: dict[str, float] = {}
        share = 1 - 0.9 * max(0.0, done - config.anneal_from) / max(1e-6, 1 - config.anneal_from)
        set_learning_rate(self.iql.optimizer, config.iql.learning_rate * share)
        set_learning_rate(self.psi_optimizer, config.action_model.learning_rate * share)
        for _ in range(n_updates):
            metrics = self.iql.update(
                normalised(source.sample(config.batch, config.iql.n_step), self.normaliser)
            )
        obs = self.normaliser(source.sample(config.improve.n_states).obs)
        n = max(1, round(n_updates * config.improve.grad_steps_per_update))
        return metrics | self.improvement.update(self.models(), self.iql, obs, n)

    def models(self) -> PolicyModels:
        """Returns the three copies of the noise model and the optimizer, as improvement wants them."""
        return PolicyModels(self.psi, self.psi_average, self.reference, self.psi_optimizer)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns all optimizers by name."""
        return {
            "iql": self.iql.optimizer,
            "psi": self.psi_optimizer,
            **self.improvement.optimizers(),
        }

    def state(self) -> dict[str, Any]:
        """Returns networks and optimizers as a tree."""
        optimizers = {k: o.state_dict() for k, o in self.optimizers().items()}
        return {"model": self.state_dict(), "prior": sampler_state(self.prior), **optimizers}

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.load_state_dict(saved["model"])
        set_sampler_state(self.prior, saved["prior"])
        for key, optimizer in self.optimizers().items():
            optimizer.load_state_dict(saved[key])


class GaussianTuner(nn.Module):
    """DDPG on the task's reward, actor from the pre-training; the paper's main URLB way to fine-tune."""

    def __init__(self, spec: TaskSpec, config: FinetuneConfig) -> None:
        super().__init__()
        self.config, self.prior = config, None
        self.normaliser = normaliser(spec)
        self.ddpg = DDPG(spec.obs_dim, spec.act_dim, config.ddpg)
        self.policy = GaussianPolicy(self.normaliser, self.ddpg.actor, spec.act_dim)

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns exploring actions (n, act_dim)."""
        return self.ddpg.explore(self.normaliser(torch.from_numpy(obs))).numpy()

    def update(self, replay: Replay, n_updates: int, done: float) -> dict[str, float]:
        """`n_updates` grad_steps; returns the last metrics."""
        source = MixedReplay(self.prior, replay) if self.prior is not None else replay
        metrics: dict[str, torch.Tensor] = {}
        for _ in range(n_updates):
            batch = normalised(
                source.sample(self.config.batch, self.config.ddpg.n_step), self.normaliser
            )
            metrics = self.ddpg.update(batch, batch.reward)
        return {k: v.item() for k, v in metrics.items()}

    def state(self) -> dict[str, Any]:
        """Returns networks and optimizers as a tree."""
        return {
            "model": self.state_dict(),
            "noise": self.ddpg.noise,
            "prior": sampler_state(self.prior),
            "actor": self.ddpg.actor_optimizer.state_dict(),
            "critic": self.ddpg.critic_optimizer.state_dict(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.load_state_dict(saved["model"])
        set_sampler_state(self.prior, saved["prior"])
        self.ddpg.noise = saved["noise"]
        self.ddpg.actor_optimizer.load_state_dict(saved["actor"])
        self.ddpg.critic_optimizer.load_state_dict(saved["critic"])


def make_learner(spec: TaskSpec, config: FinetuneConfig) -> DiffusionTuner | GaussianTuner:
    """Returns the configured learner with the pre-training's weights (and replay) in it.

    Raises:
        FileNotFoundError, ValueError: `config.start` is no pre-training. KeyError: it holds no such network.
    """
    start = load_pretrained(config.start, config.start_seed) if config.start else None
    if config.method == "ddpg":
        learner: DiffusionTuner | GaussianTuner = GaussianTuner(spec, config)
        if start:
            learner.ddpg.actor.load_state_dict(start.part("ddpg.actor"))
    else:
        reference = noise_model(spec.act_dim, spec.obs_dim, config.action_model)
        if start:
            reference.load_state_dict(start.part("action_model"))
        learner = DiffusionTuner(spec, config, reference)
    if start and config.reuse_replay:
        learner.prior = relabelled(start.replay, spec, config.seed)
    return learner


def finetune(
    config: FinetuneConfig, out: str, resume: bool = False, eval_every: int = 0
) -> Progress:
    """Runs (or resumes) fine-tuning into the run folder `out`; returns where it ended.

    Args:
        config: task, method, start and sizes.
        out: run folder.
        resume: go on from its checkpoint.
        eval_every: env_steps between evaluations of 100 episodes, logged as `success`; 0 for never.

    Raises:
        ValueError: unknown task. FileExistsError: `out` holds a run and resume is False. KeyboardInterrupt: saved.
    """
    torch.manual_seed(config.seed)
    env = Hold(make_vec(config.task, config.loop.n_envs, config.seed), config.loop.n_action_steps)
    learner = make_learner(env.task_spec, config)
    run = Run(out, config, resume)
    title = f"finetune {config.method}{'' if config.start else ' from scratch'}"
    loop = Loop(config.loop, env, learner, run, config.seed, make_observer(config.task), title)
    if resume:
        loop.resume()
    if not loop.progress.decision:
        learn_offline(learner, loop.replay, config)

    def measure() -> dict[str, float]:
        acting = torch_actor(learner.policy, 1)
        return {
            "success": evaluate(acting, config.task, 100, 1, config.loop.n_action_steps).success
        }

    try:
        return loop(measure if eval_every else None, eval_every)
    finally:
        run.close()
        env.close()


def learn_offline(
    learner: DiffusionTuner | GaussianTuner, replay: Replay, config: FinetuneConfig
) -> None:
    """Rounds of learning from the relabelled replay of the pre-training, where there is one; takes no env_step."""
    rounds = config.offline_rounds if learner.prior is not None else 0
    for _ in trange(
        rounds, desc="learning offline", unit="round", disable=None if rounds else True
    ):
        learner.update(replay, config.loop.updates_per_round, 0.0)


def final_policy(run: str | Path, n_episodes: int, seed: int = 1_000) -> Evaluation:
    """Returns the evaluation of a finished run's policy with the full sampler, on episodes never trained on."""
    held = read_config(run)["config"]
    config = from_dict(FinetuneConfig, held)
    spec = task_spec(config.task)
    learner = make_learner(spec, replace(config, start="", reuse_replay=False))
    learner.load(load_tree(Path(run) / "checkpoint.safetensors")["learner"])
    if isinstance(learner, DiffusionTuner):
        learner.policy.n_denoise_steps = 15
    return evaluate(
        torch_actor(learner.policy, seed), config.task, n_episodes, seed, config.loop.n_action_steps
    )
