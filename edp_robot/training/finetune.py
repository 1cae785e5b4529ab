"""Fine-tuning to a task's reward with any registered fine-tuner (method Eq. 6 to 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edp_robot.methods.doors import check_config, stored_config_class
from edp_robot.methods.finetune.diffusion_tuner import DiffusionTunerConfig
from edp_robot.methods.finetune.fine_tuner import FINE_TUNERS, FineTuner, tuner_class
from edp_robot.methods.finetune.resampling import ResamplingConfig
from edp_robot.methods.iql import IQLConfig
from edp_robot.methods.models import NoiseModelConfig
from edp_robot.methods.obs_statistics import N_ROWS, fit
from edp_robot.methods.ranges import Natural, Seed
from edp_robot.methods.replay_mix import relabelled
from edp_robot.training.actor import torch_actor
from edp_robot.training.checkpoint import load_tree
from edp_robot.training.devices import seed_all
from edp_robot.training.loop_config import LoopConfig, Progress
from edp_robot.training.observe import make_observer
from edp_robot.training.runs import CHECKPOINT, RUN_CONFIGS, Run, RunConfig, RunRecord
from edp_robot.training.source import Source, load_pretrained
from edp_robot.training.train_loop import Loop
from sim.core.evaluate import Evaluation, evaluate
from sim.core.hold import Hold
from sim.core.registry import make_vec, task_spec
from sim.core.spec import TaskSpec


@RUN_CONFIGS.register("FinetuneConfig")
@dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    """Fine-tuning to a task's reward: `method` names a fine-tuner, `tuner` holds its config.

    `start` is the run folder of the pre-training, of which learner `start_seed` is taken. Empty, it
    starts from scratch. `reuse_replay` relabels the pre-training's replay with the task's reward.
    On that it learns for `offline_rounds` rounds before the first env_step. Without `reuse_policy`
    it takes over that data alone and no networks, which random actions have none of. Observations
    are then scaled by that data.
    `n_eval_episodes` are those of each evaluation on the way, always the same ones.
    """

    TITLE = "fine-tuning"
    COMMAND = "edp finetune"
    POLICY = "psi_average"
    LENGTH = "loop.env_steps"
    MAY_CHANGE = ("loop.max_cpu_s",)
    task: str = "arm-press"
    method: str = "resampling"
    seed: Seed = 0
    start: str = ""
    start_seed: Natural = 0
    reuse_replay: bool = True
    reuse_policy: bool = True
    n_eval_episodes: int = 100
    offline_rounds: Natural = 0
    loop: LoopConfig = field(default_factory=LoopConfig)
    tuner: Any = field(default_factory=ResamplingConfig)

    @classmethod
    def part_classes(cls, values: Mapping[str, Any]) -> dict[str, type]:
        """Returns the class of `tuner`, which `method` decides."""
        method = values["method"]
        return {"tuner": stored_config_class(FINE_TUNERS, method, DiffusionTunerConfig)}

    @property
    def is_direct(self) -> bool:
        """Returns whether the fine-tuner's policy is no diffusion policy, but acts in one call."""
        return not isinstance(self.tuner, DiffusionTunerConfig)

    @property
    def best_of(self) -> int:
        """Returns how many answers a decision the policy chooses from."""
        return 1 if self.is_direct else self.tuner.best_of

    @property
    def policy_model(self) -> NoiseModelConfig:
        """Returns the sizes of psi."""
        return self.tuner.action_model

    @property
    def critic(self) -> IQLConfig | None:
        """Returns the sizes of the critic that every diffusion fine-tuner has, or None."""
        return self.tuner.iql if isinstance(self.tuner, DiffusionTunerConfig) else None


def make_learner(spec: TaskSpec, config: FinetuneConfig) -> FineTuner:
    """Returns the configured fine-tuner with the pre-training's weights (and replay) in it.

    Raises:
        FileNotFoundError: `config.start` is no run folder.
        ValueError: There is no such method, `config.tuner` is the config of another one, or
            `config.start` holds no network that the fine-tuner wants.
    """
    made = tuner_class(config.method)
    check_config("tuner", config.tuner, config.method, made)
    learner = made(spec, config.tuner)
    if config.start:
        start = load_pretrained(config.start, config.start_seed)
        if config.reuse_policy:
            learner.start_from(start.part)
            learner.keep_normaliser(start.part("normaliser"))
        if config.reuse_replay:
            learner.prior = relabelled(start.replay, spec, config.seed)
            fit(learner.normaliser, spec, learner.prior.observations(N_ROWS))
            learner.normaliser.frozen = True
    return learner


def finetune(
    config: FinetuneConfig, out: str, resume: bool = False, eval_every: int = 0
) -> Progress:
    """Fine-tunes into a run folder; returns where the run ended.

    Args:
        config: Task, method, start and sizes.
        out: Run folder.
        resume: Whether to go on from the folder's checkpoint.
        eval_every: env_steps between evaluations, logged as `mean_return` and, where the task
            reports it, `success`. The first one is before the first env_step. 0: none.

    Raises:
        ValueError: There is no such task or method.
        FileExistsError: `out` holds a run and `resume` is False.
        KeyboardInterrupt: A signal stopped the run. Its checkpoint is saved.
    """
    seed_all(config.seed)
    env = Hold(make_vec(config.task, config.loop.n_envs, config.seed), config.loop.n_action_steps)
    learner = make_learner(env.task_spec, config)

    def measure() -> dict[str, float]:
        acting = torch_actor(learner.policy, 1)
        n_episodes = config.n_eval_episodes
        found = evaluate(acting, config.task, n_episodes, 1, config.loop.n_action_steps)
        success = {} if found.success is None else {"success": found.success}
        return {**success, "mean_return": found.mean_return}

    with Run(out, config, resume) as run:
        loop = Loop(
            config.loop,
            env,
            learner,
            run,
            seed=config.seed,
            observer=make_observer(env.task_spec),
            title=f"finetune {config.method}{'' if config.start else ' from scratch'}",
            offline_rounds=config.offline_rounds if learner.prior is not None else 0,
        )
        if resume:
            loop.resume()
        return loop(measure if eval_every else None, eval_every)


def load_learner(config: FinetuneConfig, run: str | Path) -> FineTuner:
    """Returns the fine-tuner of a run as its checkpoint has it.

    Args:
        config: The run's config.
        run: Run folder.
    """
    learner = make_learner(task_spec(config.task), replace(config, start=""))
    learner.load(load_tree(Path(run) / CHECKPOINT)["learner"])
    return learner


def load_tuned(run: str | Path) -> Source:
    """Returns a fine-tuning run with its policy as evaluation uses it, whatever it is made of.

    Raises:
        FileNotFoundError: `run` is no run folder.
        ValueError: It is no fine-tuning.
    """
    record = RunRecord.load(run, FinetuneConfig)
    policy = load_learner(record.config, run).final_policy().requires_grad_(False).eval()
    obs = record.checkpoint()["replay"]["arrays"]["obs"].reshape(-1, record.spec.obs_dim)
    return Source(record, policy, record.spec, record.config.n_action_steps, obs)


def final_policy(
    config: FinetuneConfig, run: str | Path, n_episodes: int, seed: int = 1_000
) -> Evaluation:
    """Returns the evaluation of a finished run's policy with the full sampler.

    Args:
        config: The run's config.
        run: Run folder.
        n_episodes: Episodes. None of them was trained on.
        seed: Seeds the worlds and the policy's noise.
    """
    learner = load_learner(config, run)
    acting = torch_actor(learner.final_policy(), seed)
    return evaluate(acting, config.task, n_episodes, seed, config.loop.n_action_steps)
