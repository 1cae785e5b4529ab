"""How fast pre-training learns: python benchmarks/pretrain_speed.py --task maze-square-bottleneck

Grad_steps a second of our preset with one seed and with several at once, and of the paper's recipe (its batch, widths
and K), interleaved in one run; medians. A grad_step is one of the state model, the actor, the critic and (as often as
the preset says) the action model. The floor is the time of the bare matrix products of one grad_step, measured in the
same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from edp_robot.config import presets
from edp_robot.config.schema import PretrainConfig
from edp_robot.methods.replay import Replay
from edp_robot.training.pretrainer import Pretrainer
from policy_server.bench.latency import host
from sim.core.hold import Hold
from sim.core.registry import make_vec


class Runner:
    """A learner on a replay of random transitions."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        env = Hold(
            make_vec(config.task, config.n_seeds * config.loop.n_envs, 0),
            config.loop.n_action_steps,
        )
        spec, n = env.task_spec, env.num_envs
        self.learner = Pretrainer(spec, config)
        self.replay = Replay(100_000, n, spec.obs_dim, spec.act_dim, 0, config.n_seeds)
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
    """Returns (stack, rows, n_in, n_out, times) of one grad_step's matrix products, of the wide layers alone."""
    s, b, w = config.n_seeds, config.batch, config.ddpg.width
    action, hidden = config.action_model, config.ddpg.n_layers - 1
    return [
        *_reward_products(config, obs_dim),
        (
            s,
            b,
            action.width,
            action.inner,
            6 * action.n_blocks / config.action_model_every,
        ),  # forward, twice backward
        (2 * s, b, w, w, (3 + 1 + 2) * hidden),  # critic; its target; through it for the actor
        (s, b, w, w, (3 + 1) * hidden),  # actor; for the target
    ]


def _reward_products(
    config: PretrainConfig, obs_dim: int
) -> list[tuple[int, int, int, int, float]]:
    """Returns those of the state model and the reward, or of the reward's comparison with n_states states."""
    reward, model, n_rows = (
        config.score_reward,
        config.state_model,
        config.batch * config.ddpg.n_step,
    )
    if reward.estimator == "exact":
        return [(config.n_seeds, n_rows, obs_dim, reward.n_states, 1)]
    learning = (config.n_seeds, config.batch, model.width, model.inner, 6 * model.n_blocks)
    return [
        learning,
        (config.n_seeds, n_rows * reward.n_draws, model.width, model.inner, 2 * model.n_blocks),
    ]


def floor_s(config: PretrainConfig, repeats: int = 20) -> float:
    """Returns the time of those products alone [s]: no learner of these shapes can be faster here."""
    total = 0.0
    for stack, rows, n_in, n_out, times in products(config, 2):
        x, weight, times_s = torch.randn(stack, rows, n_in), torch.randn(stack, n_in, n_out), []
        for _ in range(repeats):
            began = time.perf_counter()
            torch.bmm(x, weight)
            times_s.append(time.perf_counter() - began)
        total += times * statistics.median(times_s)
    return total


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
        f"ours, {n} seeds": replace(presets.pretrain("demo", given.task), n_seeds=n)
        for n in given.n_seeds
    }
    configs["paper"] = presets.pretrain("paper", given.task)
    runners = {name: Runner(config) for name, config in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in configs}
    for i in range(given.rounds + 1):
        for name, runner in runners.items():
            took = runner.grad_step_s(3 if name == "paper" else 20)
            if i:  # the first warms up
                times[name].append(took)
    result = {}
    print(
        "| recipe | grad_step [ms] | of the floor | grad_steps/s a seed | all seeds |\n|---|---|---|---|---|"
    )
    for name, config in configs.items():
        took, floor = statistics.median(times[name]), floor_s(config)
        result[name] = {"grad_step_ms": took * 1e3, "floor_ms": floor * 1e3, "per_s": 1 / took}
        rate = config.n_seeds / took
        print(f"| {name} | {took * 1e3:.2f} | {took / floor:.1f} x | {1 / took:.1f} | {rate:.1f} |")
    if given.json:
        given.json.write_text(
            json.dumps({"host": host(), "threads": given.threads, "recipes": result}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
