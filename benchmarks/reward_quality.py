"""Does the intrinsic reward know what is rare? python benchmarks/reward_quality.py --task maze-square-large

A fixed set of a maze's states is learned by each reward, which then ranks the visited half-cells. The set is what
random actions see, and a dead end: --stuck of all states lie in the half-cell that random actions reached farthest out,
as if a policy had gone there and stayed. `one`, `mean`: Spearman's rank correlation of the reward with the rarity
(minus the number of visits), of a single call as the learner has it, and of the mean of 64 calls; 1 is perfect.
`dead end`: share of the half-cells that pay more than the dead end, 1 if it pays least, as it should.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edp_robot.config import presets
from edp_robot.config.settings import changed
from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward
from edp_robot.training.models import normaliser
from edp_robot.training.pretrainer import intrinsic_reward
from policy_server.bench.latency import host
from sim.core.registry import make_vec, task_spec
from sim.tasks.mazes import Maze

HALF_CELL = 0.5
NETWORK = ("score_reward.estimator=shared",)
SMOOTH = (*NETWORK, "state_model.n_features=0")
OLD = (*SMOOTH, "score_reward.spacing=time")
WHOLE = ("score_reward.t_low=0.001", "score_reward.t_high=1.0")
REWARDS: dict[str, tuple[str, tuple[str, ...]]] = {  # name: (method, settings on top of the preset)
    "edp, even in t, [.001, 1], iid, K = 20": (
        "edp",
        (*OLD, *WHOLE, "score_reward.estimator=iid", "score_reward.n_draws=20"),
    ),
    "edp, even in t, [.05, .6]": (
        "edp",
        (*OLD, "score_reward.t_low=0.05", "score_reward.t_high=0.6"),
    ),
    "edp, even in t, [.005, .2]": ("edp", OLD),
    "edp, even in log_snr, [.001, 1]": ("edp", (*SMOOTH, *WHOLE)),
    "edp, even in log_snr, [.005, .2]": ("edp", SMOOTH),
    "the same, Fourier features": ("edp", NETWORK),
    "the same, K = 16": ("edp", (*NETWORK, "score_reward.n_draws=16")),
    "edp, exact: the preset": ("edp", ()),
    "rnd": ("rnd", ()),
    "particle": ("particle", ()),
}


def visited(task: str, stuck: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions (n, 2), of 60,000 random actions and of a dead end, and the dead end's centre (2,)."""
    env, rng = make_vec(task, 16, 0), np.random.default_rng(0)
    env.reset(seed=0)
    seen = [env.step(rng.uniform(-1, 1, (16, 2)))[4]["final_obs"] for _ in range(3_750)]
    positions = np.concatenate(seen)
    centres, _ = half_cells(positions)
    end = centres[np.abs(centres - positions[0]).sum(1).argmax()]
    extra = end + rng.uniform(
        -HALF_CELL / 2, HALF_CELL / 2, (int(stuck / (1 - stuck) * len(positions)), 2)
    )
    return np.concatenate([positions, extra]).astype(np.float32), end


def half_cells(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centres (m, 2) of the half-cells that were visited, and the number of visits (m,)."""
    cells, counts = np.unique(
        np.floor(positions / HALF_CELL).astype(int), axis=0, return_counts=True
    )
    return ((cells + 0.5) * HALF_CELL).astype(np.float32), counts


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's rank correlation; ties in the order of the array."""
    ranks = [np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (a, b)]
    return float(np.corrcoef(ranks)[0, 1])


def learned(reward: IntrinsicReward, states: torch.Tensor, n_updates: int) -> float:
    """Lets `reward` learn the normalised states (n, 2); returns the time of an update [ms]."""
    began = time.perf_counter()
    for _ in range(n_updates):
        reward.update(states[torch.randint(len(states), (1, 128))])
    return (time.perf_counter() - began) / n_updates * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="maze-square-large")
    parser.add_argument("--stuck", type=float, default=0.3)
    parser.add_argument("--updates", type=int, default=6_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    (positions, end), norm = visited(given.task, given.stuck), normaliser(task_spec(given.task))
    states, (centres, counts) = norm(torch.from_numpy(positions)), half_cells(positions)
    at = np.abs(centres - end).sum(1).argmin()
    where, base = norm(torch.from_numpy(centres)).unsqueeze(0), presets.pretrain("demo", given.task)
    print(f"{Maze.load(given.task).name}: {len(positions)} states in {len(counts)} half-cells\n")
    print("| reward | one | mean | dead end | update [ms] |\n|---|---|---|---|---|")
    result = {}
    for name, (method, settings) in REWARDS.items():
        torch.manual_seed(0)
        reward = intrinsic_reward(
            task_spec(given.task), replace(changed(base, settings), method=method)
        )
        took = learned(reward, states, given.updates)
        calls = torch.stack([reward.error(where)[0] for _ in range(64)]).numpy()
        one, mean = calls[0], calls.mean(0)
        row = [
            rank_correlation(one, -counts),
            rank_correlation(mean, -counts),
            float((mean > mean[at]).mean()),
        ]
        result[name] = dict(zip(("one", "mean", "dead_end"), row, strict=True))
        print(f"| {name} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.2f} | {took:.2f} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"host": host(), "rewards": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
