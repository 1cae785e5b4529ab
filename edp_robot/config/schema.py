"""Configurations: frozen dataclasses with units, checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edp_robot.methods.ddpg import DDPGConfig
from edp_robot.methods.finetune.improve import ImproveConfig
from edp_robot.methods.iql import IQLConfig
from edp_robot.training.train_loop import LoopConfig


@dataclass(frozen=True)
class NoiseModelConfig:
    """Sizes of a noise model (method section 2) and its training.

    n_features: Fourier features of what is noised, feature_scale their frequencies [cycles a unit of it].
    """

    width: int = 256
    inner: int = 1024
    n_blocks: int = 3
    dropout: float = 0.1
    learning_rate: float = 1e-4
    activation: Literal["mish", "silu"] = "mish"
    n_features: int = 0
    feature_scale: float = 1.0
    time_dim: int = 128


@dataclass(frozen=True)
class ScoreRewardConfig:
    """EDP's intrinsic reward; method sections 2 and 7.

    estimator `exact` trains no state model and draws nothing: the best noise model of the last n_states states that
    were drawn from the replay, at t_low, in closed form. For observations (or `fields`) of few dimensions.
    """

    n_draws: int = 4
    t_low: float = 0.05
    t_high: float = 0.6
    spacing: Literal["time", "log_snr"] = "time"
    estimator: Literal["iid", "stratified", "antithetic", "shared", "exact"] = "shared"
    n_states: int = 1024
    pseudo_count: float = 0.1
    fields: tuple[str, ...] = ()  # observation fields that novelty is measured on; empty: all


@dataclass(frozen=True)
class RNDConfig:
    """Random network distillation."""

    width: int = 256
    out_dim: int = 64
    learning_rate: float = 1e-4


@dataclass(frozen=True)
class ParticleConfig:
    """Particle entropy."""

    n_neighbours: int = 3
    n_particles: int = 1024


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training without reward: `n_seeds` independent learners at once, all drawn from one `seed`.

    `centre_reward` subtracts the running mean of the intrinsic reward; `action_model_every` is how many grad_steps of
    the behaviour policy come to one of pi_d, which does not take part in the exploration.
    """

    task: str = "arm"
    method: Literal["edp", "rnd", "particle", "random"] = "edp"
    seed: int = 0
    n_seeds: int = 1
    loop: LoopConfig = field(default_factory=LoopConfig)
    ddpg: DDPGConfig = field(default_factory=DDPGConfig)
    state_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    score_reward: ScoreRewardConfig = field(default_factory=ScoreRewardConfig)
    rnd: RNDConfig = field(default_factory=RNDConfig)
    particle: ParticleConfig = field(default_factory=ParticleConfig)
    centre_reward: bool = False
    action_model_every: int = 1
    batch: int = 256

    def __post_init__(self) -> None:
        for name in ("n_seeds", "action_model_every", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


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
    start_seed: int = 0  # which of its seeds
    reuse_replay: bool = True  # relabel the pre-training's replay where the task's reward allows it
    offline_rounds: int = (
        0  # rounds of learning from the relabelled replay, before the first env_step
    )
    loop: LoopConfig = field(default_factory=LoopConfig)
    ddpg: DDPGConfig = field(default_factory=DDPGConfig)
    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)
    iql: IQLConfig = field(default_factory=IQLConfig)
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    batch: int = 256
    acting_denoise_steps: int = 15
    anneal_from: float = (
        0.6  # share of the run after which the learning rates fall, linearly, to a tenth
    )


@dataclass(frozen=True)
class CloneConfig:
    """A diffusion policy of demonstrations, without exploration or reward.

    `data` is an .npz with raw obs (n, obs_dim) and action (n, act_dim) in [-1, 1]; empty: `n_pairs` of the task's own
    expert.
    """

    task: str = "modes"
    data: str = ""
    seed: int = 0
    n_action_steps: int = 1
    n_pairs: int = 20_000
    n_chunks: int = 60
    grad_steps_per_chunk: int = 100
    batch: int = 512
    polyak: float = 0.005
    action_model: NoiseModelConfig = field(default_factory=NoiseModelConfig)


@dataclass(frozen=True)
class DistillConfig:
    """Distillation of a run's diffusion policy into a student of 1, 2 or 4 network calls."""

    start: str = ""  # run folder with the teacher
    steps: Literal[1, 2, 4] = 1
    method: Literal["paired", "consistency"] = "paired"
    seed: int = 0
    teacher_denoise_steps: int = 15
    width: int = 256
    n_layers: int = 3
    activation: Literal["mish", "silu", "relu"] = "relu"
    learning_rate: float = 1e-3
    batch: int = 256
    pairs_per_chunk: int = 16_384
    passes_per_chunk: int = 2
    n_chunks: int = 60
    rollout_episodes: int = 4  # of 64 environments each, for the states to distil on
    polish_tau: float | None = (
        None  # paired, 2 or 4 calls: where the teacher takes over; None: students.POLISH_TAU
    )
    n_times: int = 10  # consistency: length of the grid of times
    polyak: float = 0.05  # consistency: of the running average

    def __post_init__(self) -> None:
        if self.steps not in (1, 2, 4):
            raise ValueError(f"steps={self.steps}: students of 1, 2 or 4 network calls exist")
        if self.method not in ("paired", "consistency"):
            raise ValueError(f"method={self.method!r}: there are paired and consistency")
