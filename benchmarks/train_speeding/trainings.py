"""The trainings that are measured: each a function that takes some grad_steps on random data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from edp_robot.config import presets
from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.engine import Recorded
from edp_robot.methods.finetune.fine_tuner import tuner_class
from edp_robot.methods.iql import IQL
from edp_robot.methods.models import noise_model, normaliser
from edp_robot.methods.replay import Batch, Replay
from edp_robot.training.clone import Cloner
from edp_robot.training.distillers import PairedRegression, make_student
from edp_robot.training.pretrain import PretrainConfig, Pretrainer
from sim.core.registry import task_spec
from sim.core.spec import TaskSpec

Step = Callable[[], Any]


@dataclass(frozen=True)
class Training:
    """What is measured.

    Attributes:
        make: Returns a function that takes `n` grad_steps.
        n: grad_steps of one call. Where a network learns less often than the others, a multiple.
    """

    make: Callable[[], Step]
    n: int = 16


def replay_of(spec: TaskSpec, n_seeds: int = 0, n_rows: int = 200, n_envs: int = 16) -> Replay:
    """Returns a replay of random transitions, with ends of both kinds.

    Args:
        spec: The task.
        n_seeds: Learners. 0: one, and batches without an axis for learners.
        n_rows: Vector steps.
        n_envs: Environments of each learner.
    """
    rng = np.random.default_rng(0)
    n = n_envs * max(1, n_seeds)
    replay = Replay(n_rows * n, n, spec.obs_dim, spec.act_dim, seed=0, n_seeds=n_seeds)
    for _ in range(n_rows):
        obs, after = rng.normal(size=(2, n, spec.obs_dim))
        action = rng.uniform(-1, 1, (n, spec.act_dim))
        terminated, truncated = rng.random((2, n)) < 0.05
        replay.add(obs, action, rng.normal(size=n), after, terminated, truncated)
    return replay


def pretraining(config: PretrainConfig, n: int, spec: TaskSpec | None = None) -> Step:
    """Returns a function that takes `n` grad_steps of pre-training, with drawing the batches."""
    spec = task_spec(config.task) if spec is None else spec
    learner = Pretrainer(spec, config)
    replay = replay_of(spec, config.n_seeds)
    return lambda: learner.update(replay, n, 0.0)


def demo(task: str, n: int = 16, n_seeds: int = 1, **reward: Any) -> Training:
    """Returns the demo preset's pre-training.

    Args:
        task: A task's name.
        n: grad_steps.
        n_seeds: Learners at once.
        **reward: What is other than the preset in the intrinsic reward.
    """
    config = presets.pretrain("demo", task, n_seeds=n_seeds)
    config = replace(config, reward=replace(config.reward, **reward))
    return Training(lambda: pretraining(config, n), n)


def body_spec(obs_dim: int, act_dim: int) -> TaskSpec:
    """Returns the spec of a body of URLB's size, which needs no dm_control."""
    spec = task_spec("modes")

    def field(old: Any, name: str, n: int) -> Any:
        return replace(old, name=name, start=0, stop=n, low=(-1.0,) * n, high=(1.0,) * n)

    obs = field(spec.obs[0], "state", obs_dim)
    return replace(spec, obs=(obs,), action=(field(spec.action[0], "action", act_dim),))


def body(n: int = 4) -> Step:
    """Returns a function that takes grad_steps of a body of 78 numbers; all widths are 256."""
    config = presets.pretrain("demo", "arm")
    model = replace(config.action_model, width=256, inner=512)
    reward = replace(config.reward, estimator="shared", fields=(), model=model)
    ddpg = replace(config.ddpg, width=256)
    config = replace(config, reward=reward, ddpg=ddpg, action_model=model, batch=256)
    return pretraining(config, n, body_spec(78, 12))


def critic(n: int = 16) -> Step:
    """Returns a function that takes grad_steps of fine-tuning's critic, with drawing batches."""
    spec = task_spec("arm-press")
    config = tuner_class("resampling").preset("demo", spec)
    iql = IQL(spec.obs_dim, spec.act_dim, config.iql)
    grad_step = Recorded(lambda *fields: iql.update(Batch(*fields)))
    replay = replay_of(spec)

    def step() -> None:
        for _ in range(n):
            grad_step(*vars(replay.sample(config.batch, config.iql.n_step)).values())

    return step


def psi(n: int = 16) -> Step:
    """Returns a function that fits psi to given actions."""
    spec = task_spec("arm-press")
    tuner_type = tuner_class("resampling")
    tuner: Any = tuner_type(spec, tuner_type.preset("demo", spec))
    rows = n * tuner.config.policy_batch
    obs = torch.randn(rows, spec.obs_dim)
    action = torch.rand(rows, spec.act_dim) * 2 - 1
    return lambda: tuner.fit(obs, action, n)


def ddpg(n: int = 16) -> Step:
    """Returns a function that takes fine-tuning's grad_steps of DDPG, with drawing batches."""
    spec = task_spec("arm-press")
    tuner_type = tuner_class("ddpg")
    tuner = tuner_type(spec, tuner_type.preset("demo", spec))
    replay = replay_of(spec)
    return lambda: tuner.update(replay, n, 0.0)


def cloning(n: int = 16) -> Step:
    """Returns a function that takes grad_steps of cloning."""
    config = replace(presets.clone("demo", "modes"), grad_steps_per_chunk=n)
    spec = task_spec(config.task)
    obs = torch.randn(5_000, spec.obs_dim)
    return Cloner(spec, config, obs, 2 * torch.rand(5_000, spec.act_dim) - 1).chunk


def distilling(n: int = 16) -> Step:
    """Returns a function that takes grad_steps of a paired student; its teacher answers first."""
    spec = task_spec("arm-press")
    config = presets.distill("demo", "")
    size = n // config.passes_per_chunk * config.batch
    config = replace(config, pairs_per_chunk=size, n_chunks=1_000_000)
    model = noise_model(spec.act_dim, spec.obs_dim, presets.pretrain("demo", "arm").action_model)
    teacher = DiffusionPolicy(normaliser(spec), model, spec.act_dim, config.teacher_denoise_steps)
    source: Any = SimpleNamespace(spec=spec, teacher=teacher.requires_grad_(False).eval())
    states = torch.randn(5_000, spec.obs_dim)
    return PairedRegression(source, make_student(source, config), states, config).chunk


MAZE = "maze-square-large"
TRAININGS: dict[str, Training] = {
    "arm": demo("arm"),
    "arm, state network": demo("arm", estimator="shared"),
    "maze": demo(MAZE),
    "body of 78 numbers, width 256": Training(body, 4),
    "arm, ten seeds": demo("arm", n=4, n_seeds=10),
    "maze, ten seeds": demo(MAZE, n_seeds=10),
    "fine-tuning's critic": Training(critic),
    "fine-tuning's psi": Training(psi),
    "fine-tuning by ddpg": Training(ddpg),
    "cloning": Training(cloning),
    "paired distillation": Training(distilling),
}
PAPER = {"paper's recipe": Training(lambda: pretraining(presets.pretrain("paper", MAZE), 1), 1)}
