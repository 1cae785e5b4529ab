"""Does the intrinsic reward know what is rare?

    python benchmarks/reward_quality.py --task maze-square-large

Each reward learns a fixed set of a maze's states and then ranks the visited half-cells. The set is
what random actions see, and a dead end: --stuck of all states lie in the half-cell that random
actions reached farthest out, as if a policy had gone there and stayed.

The columns `one` and `mean` are Spearman's rank correlation of the reward with rarity (minus the
number of visits). `one` is of a single call, as the learner has it, and `mean` of the mean of 64
calls; 1 is perfect. `dead end` is the share of the half-cells that pay more than the dead end. It
should be 1.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from edp_robot.config import presets
from edp_robot.config.settings import changed
from edp_robot.methods.explore import IntrinsicReward
from edp_robot.methods.models import normaliser
from edp_robot.training.pretrain import intrinsic_reward
from policy_server.bench.host import host
from policy_server.contract.disk.files import write_json
from sim.core.registry import make_vec, task_spec
from sim.tasks.mazes import Maze

HALF_CELL = 0.5
NETWORK = ("reward.estimator=shared",)
SMOOTH = (*NETWORK, "reward.model.n_features=0")
OLD = (*SMOOTH, "reward.spacing=time")
WHOLE = ("reward.t_low=0.001", "reward.t_high=1.0")
IID = ("reward.estimator=iid", "reward.n_draws=20")
MIDDLE = ("reward.t_low=0.05", "reward.t_high=0.6")
REWARDS: dict[str, tuple[str, tuple[str, ...]]] = {  # name: (method, settings on top of the preset)
    "edp, even in t, [.001, 1], iid, K = 20": ("edp", (*OLD, *WHOLE, *IID)),
    "edp, even in t, [.05, .6]": ("edp", (*OLD, *MIDDLE)),
    "edp, even in t, [.005, .2]": ("edp", OLD),
    "edp, even in log_snr, [.001, 1]": ("edp", (*SMOOTH, *WHOLE)),
    "edp, even in log_snr, [.005, .2]": ("edp", SMOOTH),
    "the same, Fourier features": ("edp", NETWORK),
    "the same, K = 16": ("edp", (*NETWORK, "reward.n_draws=16")),
    "edp, exact: the preset": ("edp", ()),
    "rnd": ("rnd", ()),
    "particle": ("particle", ()),
}


def visited(task: str, stuck: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions (n, 2) and the dead end's centre (2,).

    The positions are those of 60,000 random actions and, for the share `stuck`, of the dead end.
    """
    env = make_vec(task, n_envs=16, seed=0)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    seen = []
    for _ in range(3_750):
        *_, infos = env.step(rng.uniform(-1, 1, (16, 2)))
        seen.append(infos["final_obs"])
    positions = np.concatenate(seen)
    centres, _ = half_cells(positions)
    end = centres[np.abs(centres - positions[0]).sum(1).argmax()]
    n_stuck = int(stuck / (1 - stuck) * len(positions))
    extra = end + rng.uniform(-HALF_CELL / 2, HALF_CELL / 2, (n_stuck, 2))
    return np.concatenate([positions, extra]).astype(np.float32), end


def half_cells(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centres (m, 2) of the visited half-cells, and their numbers of visits (m,)."""
    cells = np.floor(positions / HALF_CELL).astype(int)
    visited, counts = np.unique(cells, axis=0, return_counts=True)
    return ((visited + 0.5) * HALF_CELL).astype(np.float32), counts


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's rank correlation; ties rank in the order of the array."""
    first, second = (np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def learned(reward: IntrinsicReward, states: torch.Tensor, n_updates: int) -> float:
    """Lets `reward` learn the states; returns the time of an update [ms].

    Args:
        reward: What learns.
        states: Normalised states (n, 2).
        n_updates: Updates, of 128 states each.
    """
    began = time.perf_counter()
    for _ in range(n_updates):
        reward.update(states[torch.randint(len(states), (1, 128))])
    return (time.perf_counter() - began) / n_updates * 1e3


def quality(
    reward: IntrinsicReward, where: torch.Tensor, counts: np.ndarray, dead_end: int
) -> dict[str, float]:
    """Returns the three figures of a reward that has learned.

    Args:
        reward: The reward.
        where: Normalised centres of the half-cells (1, m, 2).
        counts: Visits of each (m,).
        dead_end: The dead end's index.
    """
    calls = torch.stack([reward.error(where)[0] for _ in range(64)]).numpy()
    mean = calls.mean(0)
    return {
        "one": rank_correlation(calls[0], -counts),
        "mean": rank_correlation(mean, -counts),
        "dead_end": float((mean > mean[dead_end]).mean()),
    }


def main() -> None:
    """Measures and prints."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--task", default="maze-square-large")
    parser.add_argument("--stuck", type=float, default=0.3)
    parser.add_argument("--updates", type=int, default=6_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = task_spec(given.task)
    norm = normaliser(spec)
    positions, end = visited(given.task, given.stuck)
    states = norm(torch.from_numpy(positions))
    centres, counts = half_cells(positions)
    where = norm(torch.from_numpy(centres)).unsqueeze(0)
    dead_end = int(np.abs(centres - end).sum(1).argmin())
    print(f"{Maze.load(given.task).name}: {len(positions)} states in {len(counts)} half-cells\n")
    print("| reward | one | mean | dead end | update [ms] |\n|---|---|---|---|---|")
    result = {}
    for name, (method, settings) in REWARDS.items():
        torch.manual_seed(0)
        config = changed(presets.pretrain("demo", given.task, method=method), settings)
        reward = intrinsic_reward(spec, config)
        took = learned(reward, states, given.updates)
        found = quality(reward, where, counts, dead_end)
        row = " | ".join(f"{value:.2f}" for value in (*found.values(), took))
        print(f"| {name} | {row} |", flush=True)
        result[name] = found
    write_json(given.json, {"host": host(), "rewards": result})


if __name__ == "__main__":
    main()
