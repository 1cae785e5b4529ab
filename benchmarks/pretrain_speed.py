"""How fast pre-training learns.

    python benchmarks/pretrain_speed.py --task maze-square-bottleneck

It times grad_steps of our preset, with one seed and with several at once, and of the paper's recipe
(its batch, widths and K). The recipes take turns in one run, and the table shows medians. A
grad_step is one of the state model, the actor, the critic and, as often as the preset says, the
action model. The floor is the time of the bare matrix products of one grad_step in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from edp_robot.config import presets
from edp_robot.methods.explore.score_config import ScoreRewardConfig
from edp_robot.methods.replay import Replay
from edp_robot.training.pretrain import PretrainConfig, Pretrainer
from policy_server.bench.host import host
from policy_server.contract.disk.files import write_json
from sim.core.hold import Hold
from sim.core.registry import make_vec


class Runner:
    """A learner on a replay of random transitions."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        n_envs = config.n_seeds * config.loop.n_envs
        env = Hold(make_vec(config.task, n_envs, seed=0), config.loop.n_action_steps)
        spec = env.task_spec
        self.learner = Pretrainer(spec, config)
        self.replay = Replay(
            capacity=100_000,
            n_envs=n_envs,
            obs_dim=spec.obs_dim,
            act_dim=spec.act_dim,
            seed=0,
            n_seeds=config.n_seeds,
        )
        obs, _ = env.reset(seed=0)
        for _ in range(100):
            action = env.action_space.sample()
            after, reward, terminated, truncated, infos = env.step(action)
            self.replay.add(obs, action, reward, infos["final_obs"], terminated, truncated)
            obs = after
        env.close()

    def grad_step_s(self, n: int) -> float:
        """Returns the mean time of a grad_step over `n` of them [s]."""
        began = time.perf_counter()
        self.learner.update(self.replay, n, 0.0)
        return (time.perf_counter() - began) / n


def products(config: PretrainConfig, obs_dim: int) -> list[tuple[int, int, int, int, float]]:
    """Returns (stack, rows, n_in, n_out, times) of the matrix products of one grad_step.

    It counts the wide layers alone. A backward pass counts as two products.
    """
    n_seeds = config.n_seeds
    batch = config.batch
    width = config.ddpg.width
    hidden = config.ddpg.n_layers - 1
    model = config.action_model
    n_action = 6 * model.n_blocks / config.action_model_every
    n_critic = (3 + 1 + 2) * hidden  # its grad_step, its target, and through it for the actor
    n_actor = (3 + 1) * hidden  # its grad_step, and for the critic's target
    return [
        *_reward_products(config, obs_dim),
        (n_seeds, batch, model.width, model.inner, n_action),
        (2 * n_seeds, batch, width, width, n_critic),
        (n_seeds, batch, width, width, n_actor),
    ]


def _reward_products(
    config: PretrainConfig, obs_dim: int
) -> list[tuple[int, int, int, int, float]]:
    """Returns the products of the state model and the reward, or of the exact reward alone."""
    reward: ScoreRewardConfig = config.reward
    n_seeds = config.n_seeds
    n_rows = config.batch * config.ddpg.n_step
    if reward.estimator == "exact":
        return [(n_seeds, n_rows, obs_dim, reward.n_states, 1)]
    model = reward.model
    sizes = (model.width, model.inner)
    learning = (n_seeds, config.batch, *sizes, 6 * model.n_blocks)
    return [learning, (n_seeds, n_rows * reward.n_draws, *sizes, 2 * model.n_blocks)]


def floor_s(config: PretrainConfig, repeats: int = 20) -> float:
    """Returns the time of the products alone [s]. No learner of these shapes can be faster here."""
    total = 0.0
    for stack, rows, n_in, n_out, times in products(config, obs_dim=2):
        x = torch.randn(stack, rows, n_in)
        weight = torch.randn(stack, n_in, n_out)
        times_s = []
        for _ in range(repeats):
            began = time.perf_counter()
            torch.bmm(x, weight)
            times_s.append(time.perf_counter() - began)
        total += times * statistics.median(times_s)
    return total


def measured(runners: dict[str, Runner], rounds: int) -> dict[str, float]:
    """Returns each recipe's median time of a grad_step [s]; the recipes take turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for i in range(rounds + 1):
        for name, runner in runners.items():
            took = runner.grad_step_s(3 if name == "paper" else 20)
            if i:  # the first round warms up
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="maze-square-bottleneck")
    parser.add_argument("--n-seeds", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    configs = {
        f"ours, {n} seeds": presets.pretrain("demo", given.task, n_seeds=n) for n in given.n_seeds
    }
    configs["paper"] = presets.pretrain("paper", given.task)
    runners = {name: Runner(config) for name, config in configs.items()}
    result = {}
    print("| recipe | grad_step [ms] | of the floor | grad_steps/s a seed | all seeds |")
    print("|---|---|---|---|---|")
    for name, took in measured(runners, given.rounds).items():
        floor = floor_s(configs[name])
        result[name] = {"grad_step_ms": took * 1e3, "floor_ms": floor * 1e3, "per_s": 1 / took}
        rate = configs[name].n_seeds / took
        print(f"| {name} | {took * 1e3:.2f} | {took / floor:.1f} x | {1 / took:.1f} | {rate:.1f} |")
    write_json(given.json, {"host": host(), "threads": given.threads, "recipes": result})


if __name__ == "__main__":
    main()
