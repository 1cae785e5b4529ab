"""Configurations: frozen dataclasses with units, checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .rl.ddpg import DDPGConfig
from .rl.improve import ImproveConfig
from .rl.iql import IQLConfig
from .stages.loop import LoopConfig


@dataclass(frozen=True)
class NoiseModelConfig:
    """Sizes of a noise model (method section 2) and its training."""

    width: int = 256
    inner: int = 1024
    n_blocks: int = 3
    dropout: float = 0.1
    learning_rate: float = 1e-4
    activation: Literal["mish", "silu"] = "mish"


@dataclass(frozen=True)
class ScoreRewardConfig:
    """EDP's intrinsic reward; method sections 2 and 7."""

    n_draws: int = 4
    t_low: float = 0.05
    t_high: float = 0.6
    centre: bool = False
    fields: tuple[str, ...] = ()  # observation fields that novelty is measured on; empty: all


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training without reward."""

    task: str = "arm"
    method: Literal["edp", "random"] = "edp"
    seed: int = 0
    loop: LoopConfig = field(default_factory=LoopConfig)
    ddpg: DDPGConfig = field(default_factory=DDPGConfig)
    state_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    score_reward: ScoreRewardConfig = field(default_factory=ScoreRewardConfig)
    batch: int = 256


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning to a task's reward.

    `method`: `edp` improves the diffusion policy by resampling (`rl.improve`), `edp-guidance` by the paper's Eq. 9 and
    10, `ddpg` the Gaussian policy.
    """

    task: str = "arm-press"
    method: Literal["edp", "edp-guidance", "ddpg"] = "edp"
    seed: int = 0
    start: str = ""  # run folder of the pre-training; empty: from scratch
    reuse_replay: bool = True  # relabel the pre-training's replay where the task's reward allows it
    loop: LoopConfig = field(default_factory=LoopConfig)
    ddpg: DDPGConfig = field(default_factory=DDPGConfig)
    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    iql: IQLConfig = field(default_factory=IQLConfig)
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    batch: int = 256
    acting_denoise_steps: int = 15
