"""Named configurations: `smoke` (seconds), `demo` (minutes on two cores), `paper` (method.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edp_robot.methods.ddpg import DDPGConfig
from edp_robot.methods.explore.intrinsic_reward import reward_class
from edp_robot.methods.finetune.fine_tuner import tuner_class
from edp_robot.methods.models import SMALL, NoiseModelConfig
from edp_robot.training.clone import CloneConfig
from edp_robot.training.distillers import DistillConfig
from edp_robot.training.finetune import FinetuneConfig
from edp_robot.training.loop_config import LoopConfig
from edp_robot.training.pretrain import PretrainConfig
from sim.core.registry import task_spec
from sim.core.spec import TaskSpec

NAMES = ("smoke", "demo", "paper")
LOOP_FIELDS = ("env_steps", "n_envs", "n_action_steps")
# Updates per env_step by domain, as the authors' code sets them (method section 2).
PAPER_UPDATES = {"maze": 5}
BODIES = ("walker", "hopper", "cheetah", "quadruped", "jaco", "ant-maze")
# grad_steps on the relabelled replay before the first env_step, the same for every method
OFFLINE_UPDATES = {"smoke": 20, "demo": 900, "paper": 0}
FINAL_UPDATES = 1_000  # grad_steps of pi_d after exploring


def check(name: str) -> None:
    """Raises ValueError if there is no preset `name`. The message lists those that exist."""
    if name not in NAMES:
        raise ValueError(f"no preset {name!r}; there are: {', '.join(NAMES)}")


def pretrain(preset: str, task: str, method: str = "edp", **changes: Any) -> PretrainConfig:
    """Returns a pre-training configuration.

    Args:
        preset: One of NAMES.
        task: A task's name. Its domain and hold decide some of the values.
        method: An intrinsic reward, which gives its own settings for the preset.
        **changes: Fields of PretrainConfig, or of its loop; None leaves a field as it is.

    Raises:
        ValueError: There is no such preset, task or method. The message lists those that exist.
    """
    check(preset)
    spec = task_spec(task)
    domains: dict[str, Callable[[TaskSpec], PretrainConfig]] = {
        "arm": _demo_arm,
        "maze": _demo_maze,
        **dict.fromkeys(BODIES, _demo_body),
    }
    demo = domains.get(spec.domain, _demo)
    made = {"demo": demo, "smoke": lambda spec: _smoke(demo(spec)), "paper": _paper}
    reward = reward_class(method).preset(preset, spec)
    config = replace(made[preset](spec), task=task, method=method, reward=reward)
    return _changed(config, changes)


def _demo(spec: TaskSpec) -> PretrainConfig:
    """Returns what explored best in minutes on two cores (docs/log.md)."""
    return PretrainConfig(
        loop=LoopConfig(
            env_steps=192_000,
            n_envs=16,
            n_action_steps=spec.hold,
            updates_per_round=16,
            final_updates=FINAL_UPDATES,
        ),
        ddpg=DDPGConfig(
            width=128,
            discount=0.9,
            explore_noise=(0.1, 1.0),
            noise_correlation=0.7,
            pre_tanh_penalty=0.05,
        ),
        action_model=replace(SMALL, learning_rate=1e-3),
        centre_reward=True,
        action_model_every=0,
        batch=128,
        final_batch=256,
    )


def _demo_arm(spec: TaskSpec) -> PretrainConfig:
    """Returns what pressed the button most often in a minute of one core (results/per_second).

    Other recipes cover more: particle, and the closed form on all 22 numbers.
    """
    demo = _demo(spec)
    return replace(
        demo,
        loop=replace(demo.loop, env_steps=288_000, updates_per_round=4),
        ddpg=replace(demo.ddpg, learning_rate=5e-4),
        batch=64,
    )


def _demo_body(spec: TaskSpec) -> PretrainConfig:
    """Returns what visited most of the walker's states in 80 s of one core (docs/log.md).

    That is one grad_step for 16 env_steps: simulating a body costs less than learning from it.
    """
    demo = _demo(spec)
    return replace(
        demo,
        loop=replace(demo.loop, env_steps=500_000, n_envs=32, updates_per_round=2),
        ddpg=replace(demo.ddpg, n_step=3, discount=0.97),
    )


def _demo_maze(spec: TaskSpec) -> PretrainConfig:
    """Returns what explored best in a minute on one core (docs/exploration.md)."""
    return PretrainConfig(
        loop=LoopConfig(
            env_steps=100_000, n_envs=16, updates_per_round=8, final_updates=FINAL_UPDATES
        ),
        ddpg=DDPGConfig(
            width=64,
            learning_rate=1e-3,
            discount=0.97,
            explore_noise=(0.1, 0.5),
            noise_correlation=0.7,
            pre_tanh_penalty=0.01,
            n_features=32,
        ),
        action_model=replace(SMALL, learning_rate=1e-3, time_dim=32),
        centre_reward=True,
        action_model_every=0,
        batch=64,
        final_batch=256,
    )


def _smoke(demo: PretrainConfig) -> PretrainConfig:
    """Returns the demo's configuration, cut to seconds."""
    steps = {"env_steps": 6_400, "random_env_steps": 3_200}
    loop = replace(demo.loop, **steps, updates_per_round=4, final_updates=100)
    return replace(demo, loop=loop)


def _paper(spec: TaskSpec) -> PretrainConfig:
    """Returns method section 2 as the authors' code sets it: half a day on a GPU there."""
    updates = PAPER_UPDATES.get(spec.domain, 1)
    return PretrainConfig(
        loop=LoopConfig(env_steps=100_000, n_envs=1, updates_per_round=updates),
        ddpg=DDPGConfig(
            width=1024,
            layer_norm=False,
            learning_rate=1e-4,
            polyak=0.01,
            n_step=3,
            explore_noise=(0.2, 0.2),
        ),
        batch=1024 if spec.domain == "maze" else 256,
    )


def finetune(preset: str, task: str, method: str | None = None, **changes: Any) -> FinetuneConfig:
    """Returns a fine-tuning configuration.

    Args:
        preset: One of NAMES.
        task: A task's name. Its hold and its reward decide some of the values.
        method: A fine-tuner, which gives its own settings for the preset. None: the preset's.
        **changes: Fields of FinetuneConfig, or of its loop; None leaves a field as it is.

    Raises:
        ValueError: There is no such preset, task or method. The message lists those that exist.
    """
    check(preset)
    spec = task_spec(task)
    config = _paper_finetune() if preset == "paper" else _small_finetune(preset, spec)
    method = method or config.method
    tuner = tuner_class(method)
    loop = replace(config.loop, **tuner.loop_changes(preset))
    per_transition = tuner.updates_per_transition(preset, spec)
    if per_transition:
        n_new = loop.n_envs * loop.decisions_per_update
        loop = replace(loop, updates_per_round=max(1, round(per_transition * n_new)))
    offline_rounds = -(-OFFLINE_UPDATES[preset] // loop.updates_per_round)
    settings = tuner.preset(preset, spec)
    found = {"loop": loop, "tuner": settings, "offline_rounds": offline_rounds}
    return _changed(replace(config, task=task, method=method, **found), changes)


def _small_finetune(preset: str, spec: TaskSpec) -> FinetuneConfig:
    """Returns the demo's configuration, or the shorter smoke's."""
    demo = preset == "demo"
    return FinetuneConfig(
        loop=LoopConfig(
            env_steps=20_000 if demo else 4_000,
            n_envs=20,
            n_action_steps=spec.hold,
            random_env_steps=0,
            decisions_per_update=10,
            updates_per_round=150 if demo else 20,
        ),
        method="resampling",
        reuse_replay=spec.reward is not None,
    )


def _paper_finetune() -> FinetuneConfig:
    """Returns method section 3, with rounds of 10,000 decisions."""
    return FinetuneConfig(
        method="edp-guidance",
        reuse_replay=False,
        loop=LoopConfig(
            env_steps=100_000,
            n_envs=1,
            random_env_steps=0,
            decisions_per_update=10_000,
            updates_per_round=10_000,
        ),
    )


def clone(preset: str, task: str, **changes: Any) -> CloneConfig:
    """Returns a configuration for cloning demonstrations of `task`.

    Args:
        preset: One of NAMES.
        task: A task's name.
        **changes: Fields of CloneConfig; None leaves a field as it is.
    """
    check(preset)
    model = replace(SMALL, width=128, inner=256, n_blocks=3, learning_rate=1e-3)
    n_action_steps = task_spec(task).hold
    demo = CloneConfig(task=task, n_action_steps=n_action_steps, batch=256, action_model=model)
    smoke = replace(demo, n_chunks=2, grad_steps_per_chunk=20)
    paper = replace(demo, action_model=NoiseModelConfig())
    return _changed({"demo": demo, "smoke": smoke, "paper": paper}[preset], changes)


def distill(preset: str, start: str, **changes: Any) -> DistillConfig:
    """Returns a distillation configuration.

    Args:
        preset: One of NAMES.
        start: Run folder with the teacher.
        **changes: Fields of DistillConfig; None leaves a field as it is.
    """
    check(preset)
    demo = DistillConfig(
        start=start, learning_rate=2e-3, n_chunks=12, pairs_per_chunk=8_192, passes_per_chunk=4
    )
    smoke = replace(demo, n_chunks=4, pairs_per_chunk=2_048, rollout_episodes=1)
    paper = DistillConfig(start=start)
    return _changed({"demo": demo, "smoke": smoke, "paper": paper}[preset], changes)


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    """Returns the config with the given fields replaced; None leaves a field as it is."""
    given = {name: value for name, value in changes.items() if value is not None}
    loop = {name: given.pop(name) for name in LOOP_FIELDS if name in given}
    if loop:
        given["loop"] = replace(config.loop, **loop)
    return replace(config, **given)
