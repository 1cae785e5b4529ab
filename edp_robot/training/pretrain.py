"""Reward-free pre-training: an intrinsic reward pays for unseen states (method section 2)."""

from __future__ import annotations

import torch

from edp_robot.config.schema import PretrainConfig
from edp_robot.training.devices import CPU
from edp_robot.training.observe import make_observer
from edp_robot.training.pretrainer import Pretrainer, RandomActor
from edp_robot.training.runs import Run
from edp_robot.training.train_loop import Loop, Progress
from sim.core.hold import Hold
from sim.core.registry import make_vec


def pretrain(
    config: PretrainConfig, out: str, resume: bool = False, device: torch.device = CPU
) -> Progress:
    """Runs (or resumes) reward-free pre-training into the run folder `out`; returns where it ended.

    The `config.n_seeds` learners are trained at once, on `device`; env_steps are those of one of them. The worlds and
    the replay stay on the CPU.

    Raises:
        ValueError: unknown task. FileExistsError: `out` holds a run and resume is False. KeyboardInterrupt: saved.
    """
    torch.manual_seed(config.seed)
    n_seeds = config.n_seeds
    env = Hold(
        make_vec(config.task, n_seeds * config.loop.n_envs, config.seed), config.loop.n_action_steps
    )
    spec = env.task_spec
    random = config.method == "random"
    learner = (
        RandomActor(spec.act_dim, config.seed) if random else Pretrainer(spec, config).to(device)
    )
    run, observer = Run(out, config, resume), make_observer(config.task, n_seeds)
    loop = Loop(
        config.loop,
        env,
        learner,
        run,
        config.seed,
        observer,
        f"pretrain {config.method}",
        n_seeds,
        device,
    )
    if resume:
        loop.resume()
    try:
        return loop()
    finally:
        run.close()
        env.close()
