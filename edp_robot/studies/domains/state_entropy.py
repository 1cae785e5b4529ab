"""Particle entropy of the states that a run visited, from its replay (Kozachenko and Leonenko)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

from edp_robot.studies.jobs import read_result
from edp_robot.training.runs import RunRecord
from edp_robot.training.source import load_pretrained
from policy_server.contract.disk.files import write_json
from sim.core.hold import Hold
from sim.core.registry import make_vec, task_spec

N_STATES = 4_000  # as many of every run
K_NEIGHBOURS = 3
SEED = 11
N_SCALED = 8_000  # states of random actions that give the scale of each number
TINY = 1e-6  # of a scale: a number that random actions never change


def knn_entropy(points: np.ndarray, k: int = K_NEIGHBOURS) -> float:
    """Returns the entropy [nats] of the density that points (n, dim) are drawn from.

    It is digamma(n) - digamma(k) + log(volume of the unit ball) + dim * mean(log(distance to the
    k-th neighbour)), so doubling one number adds log 2. Equal points count as TINY apart.
    """
    n, dim = points.shape
    distance, _ = cKDTree(points).query(points, k + 1)
    ball = dim / 2 * np.log(np.pi) - gammaln(dim / 2 + 1)
    logs = np.log(np.maximum(distance[:, k], TINY))
    return float(digamma(n) - digamma(k) + ball + dim * logs.mean())


@cache
def obs_scale(task: str) -> np.ndarray:
    """Returns the standard deviation of each number of the obs under random actions (obs_dim,).

    At least a hundredth of the number's range, where that is finite: random actions hardly move a
    button. The seed is fixed, so it is the same for all runs of a task.
    """
    env = Hold(make_vec(task, 16, SEED), task_spec(task).hold)
    rng = np.random.default_rng(SEED)
    rows = [env.reset(seed=SEED)[0]]
    while sum(map(len, rows)) < N_SCALED:
        rows.append(env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))[0])
    env.close()
    low, high = task_spec(task).obs_limits()
    width = np.where(np.isfinite(high - low), high - low, 0.0)
    return np.maximum(np.concatenate(rows).std(axis=0), np.maximum(width / 100, TINY))


def run_entropy(run: Path, n_states: int = N_STATES) -> float:
    """Returns the entropy [nats] of `n_states` states drawn from what a run's replay holds.

    Each number is divided by `obs_scale`. NaN where the replay holds fewer states, since estimates
    of different n differ.

    Raises:
        FileNotFoundError, ValueError: It is no run of `edp pretrain` with a checkpoint.
    """
    stored = load_pretrained(run).replay["arrays"]["next_obs"].numpy()
    states = stored.reshape(-1, stored.shape[-1])
    if len(states) < n_states:
        return float("nan")
    drawn = np.random.default_rng(SEED).choice(len(states), n_states, replace=False)
    return knn_entropy(states[drawn] / obs_scale(RunRecord.load(run).config.task))


def kept_entropy(run: Path, kept: Path) -> float:
    """Returns `run_entropy`, which is computed once and then kept in a JSON file.

    Raises:
        FileNotFoundError, ValueError: It is no run of `edp pretrain` with a checkpoint.
    """
    held = read_result(kept)
    if held.get("n_states") != N_STATES:
        found = run_entropy(run)
        held = {"n_states": N_STATES, "nats": None if np.isnan(found) else found}
        write_json(kept, held)
    return float("nan") if held["nats"] is None else held["nats"]
