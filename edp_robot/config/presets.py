"""Named configurations: `smoke` (does it run), `demo` (two cores, minutes), `paper` (method.md's hyperparameters)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edp_robot.config.schema import (
    CloneConfig,
    DistillConfig,
    FinetuneConfig,
    NoiseModelConfig,
    PretrainConfig,
    ScoreRewardConfig,
)
from edp_robot.methods.ddpg import DDPGConfig
from edp_robot.methods.finetune.guidance import GuidanceConfig
from edp_robot.methods.finetune.improve import ImproveConfig
from edp_robot.methods.iql import IQLConfig
from edp_robot.training.train_loop import LoopConfig

NAMES = ("smoke", "demo", "paper")
SMALL = NoiseModelConfig(
    width=64, inner=128, n_blocks=2, dropout=0.0, learning_rate=3e-4, activation="silu"
)
# draws a state (K) and updates an env_step, as the authors' code sets them a domain (method section 2)
PAPER_DRAWS = {"maze": 20, "gym": 20}
PAPER_UPDATES = {"maze": 5}


def check(name: str) -> None:
    """Raises ValueError for a preset that does not exist; the message lists those that do."""
    if name not in NAMES:
        raise ValueError(f"no preset {name!r}; there are: {', '.join(NAMES)}")


def hold(task: str) -> int:
    """Returns the control steps that an action is held: 10 on the arm (10 decisions a second), else 1."""
    return 10 if task.startswith("arm") else 1


def pretrain(preset: str, task: str, **changes: Any) -> PretrainConfig:
    """Returns a pre-training configuration; `changes` are fields of PretrainConfig (`env_steps` goes to the loop)."""
    check(preset)
    made: dict[str, Callable[[str], PretrainConfig]] = {
        "demo": _demo,
        "smoke": _smoke,
        "paper": _paper,
    }
    return _changed(made[preset](task), changes)


def _demo(task: str) -> PretrainConfig:
    """What docs/log.md found to explore best in minutes of two cores."""
    if task.startswith("maze"):
        return _demo_maze(task)
    return PretrainConfig(
        task=task,
        loop=LoopConfig(
            env_steps=192_000, n_envs=16, n_action_steps=hold(task), updates_per_round=16
        ),
        ddpg=DDPGConfig(
            width=128,
            discount=0.9,
            explore_noise=(0.1, 1.0),
            noise_correlation=0.7,
            pre_tanh_penalty=0.05,
        ),
        state_model=SMALL,
        action_model=SMALL,
        score_reward=ScoreRewardConfig(n_draws=4),
        centre_reward=True,
        batch=128,
    )


def _demo_maze(task: str) -> PretrainConfig:
    """What docs/exploration.md found to explore best in a minute of a core, of what was tried.

    The state model, t_high and spacing are for the estimators with a network (`--set score_reward.estimator=...`).
    """
    return PretrainConfig(
        task=task,
        loop=LoopConfig(env_steps=100_000, n_envs=16, updates_per_round=8),
        ddpg=DDPGConfig(
            width=64,
            learning_rate=1e-3,
            discount=0.97,
            explore_noise=(0.1, 0.5),
            noise_correlation=0.7,
            pre_tanh_penalty=0.01,
            n_features=32,
        ),
        state_model=replace(SMALL, learning_rate=1e-3, n_features=32, time_dim=32),
        action_model=replace(SMALL, time_dim=32),
        score_reward=ScoreRewardConfig(
            t_low=0.004, t_high=0.2, spacing="log_snr", estimator="exact"
        ),
        centre_reward=True,
        action_model_every=16,
        batch=64,
    )


def _smoke(task: str) -> PretrainConfig:
    """The demo's, cut to seconds."""
    demo = _demo(task)
    return replace(
        demo, loop=replace(demo.loop, env_steps=6_400, random_env_steps=3_200, updates_per_round=4)
    )


def _paper(task: str) -> PretrainConfig:
    """Method section 2, as the authors' code sets it: half a day on a GPU there; here on the CPU for now."""
    domain = task.split("-")[0].split(":")[0]
    model = NoiseModelConfig()
    return PretrainConfig(
        task=task,
        loop=LoopConfig(
            env_steps=100_000, n_envs=1, updates_per_round=PAPER_UPDATES.get(domain, 1)
        ),
        ddpg=DDPGConfig(
            width=1024,
            layer_norm=False,
            learning_rate=1e-4,
            polyak=0.01,
            n_step=3,
            explore_noise=(0.2, 0.2),
        ),
        state_model=model,
        action_model=model,
        score_reward=ScoreRewardConfig(
            n_draws=PAPER_DRAWS.get(domain, 10), t_low=1e-3, t_high=1.0, estimator="iid"
        ),
        batch=1024 if domain == "maze" else 256,
    )


def finetune(preset: str, task: str, **changes: Any) -> FinetuneConfig:
    """Returns a fine-tuning configuration; `changes` as for `pretrain`."""
    check(preset)
    steps = 90_000 if changes.get("method") == "ddpg" else 24_000
    small = FinetuneConfig(
        task=task,
        loop=LoopConfig(
            env_steps=steps if preset == "demo" else 4_000,
            n_envs=20,
            n_action_steps=hold(task),
            random_env_steps=0,
            decisions_per_update=10,
            updates_per_round=250 if preset == "demo" else 20,
        ),
        ddpg=DDPGConfig(width=128, discount=0.95, explore_noise=(0.05, 0.6), pre_tanh_penalty=0.01),
        action_model=replace(SMALL, learning_rate=1e-3),
        iql=IQLConfig(
            width=128, discount=0.95, n_step=5, expectile=0.9, learning_rate=5e-4, polyak=0.01
        ),
        improve=ImproveConfig(
            n_states=512,
            n_proposals=32,
            n_uniform=8,
            proposal_denoise_steps=8,
            inverse_temp=10.0,
            relative_temp=True,
            guidance=GuidanceConfig(width=128, n_layers=3, learning_rate=1e-3),
        ),
        acting_denoise_steps=8,
        reuse_replay=not task.startswith(
            "gym:"
        ),  # their rewards do not follow from the observation
        offline_rounds=3 if preset == "demo" else 1,
    )
    paper = FinetuneConfig(
        task=task,
        method="edp-guidance",
        reuse_replay=False,
        loop=LoopConfig(
            env_steps=100_000,
            n_envs=1,
            random_env_steps=0,
            decisions_per_update=10_000,
            updates_per_round=10_000,
        ),
        ddpg=DDPGConfig(width=1024, layer_norm=False, learning_rate=1e-4, n_step=3),
        iql=IQLConfig(layer_norm=False),
        anneal_from=1.0,
    )
    config = _changed(paper if preset == "paper" else small, changes)
    if (
        config.method == "ddpg" and preset != "paper"
    ):  # every decision, not in rounds: DDPG has nothing to amortise
        every = replace(config.loop, decisions_per_update=1, updates_per_round=10)
        return replace(config, loop=every, improve=ImproveConfig())
    return config


def clone(preset: str, task: str, **changes: Any) -> CloneConfig:
    """Returns a configuration for cloning demonstrations of `task`."""
    check(preset)
    model = replace(SMALL, width=128, inner=256, n_blocks=3, learning_rate=1e-3)
    demo = CloneConfig(task=task, n_action_steps=hold(task), batch=256, action_model=model)
    smoke = replace(demo, n_chunks=2, grad_steps_per_chunk=20)
    paper = replace(demo, action_model=NoiseModelConfig())
    return _changed({"demo": demo, "smoke": smoke, "paper": paper}[preset], changes)


def distill(preset: str, start: str, **changes: Any) -> DistillConfig:
    """Returns a distillation configuration of run `start`."""
    check(preset)
    demo = DistillConfig(
        start=start, learning_rate=2e-3, n_chunks=20, pairs_per_chunk=8_192, passes_per_chunk=4
    )
    smoke = replace(demo, n_chunks=4, pairs_per_chunk=2_048, rollout_episodes=1)
    return _changed(
        {"demo": demo, "smoke": smoke, "paper": DistillConfig(start=start)}[preset], changes
    )


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    """Returns the config with the given fields replaced, None meaning unchanged."""
    given = {k: v for k, v in changes.items() if v is not None}
    loop = {k: given.pop(k) for k in ("env_steps", "n_envs", "n_action_steps") if k in given}
    return replace(config, **given, **({"loop": replace(config.loop, **loop)} if loop else {}))
