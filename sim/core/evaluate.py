"""How well a policy does a task: success, return, over whole episodes from the task's own start states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from sim.core.hold import Hold
from sim.core.registry import make_vec

ActFn = Callable[[np.ndarray], np.ndarray]  # raw obs (n, obs_dim) -> action (n, act_dim) in [-1, 1]


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`: share of episodes that succeeded, its 95 % Wilson interval, mean return and its error."""

    success: float
    success_low: float
    success_high: float
    mean_return: float
    return_sem: float  # standard error of the mean return; 0 of one episode
    n_episodes: int

    def to_json(self) -> dict:
        """Returns plain values."""
        return asdict(self)


def wilson(n_success: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Returns Wilson's interval (low, high) of a share of n_success in n."""
    p, d = n_success / n, 1 + z * z / n
    centre, half = (p + z * z / (2 * n)) / d, z / d * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def evaluate(
    act: ActFn, task: str, n_episodes: int, seed: int, n_action_steps: int = 1
) -> Evaluation:
    """Returns success and return over the first `n_episodes` episodes, all environments in step.

    Every environment runs one whole episode and no episode is dropped for its length.
    """
    env = Hold(make_vec(task, n_episodes, seed), n_action_steps)
    try:
        obs, _ = env.reset(seed=seed)
        any_time = env.task_spec.success_when == "any"
        running, success, total = (
            np.ones(n_episodes, bool),
            np.zeros(n_episodes, bool),
            np.zeros(n_episodes),
        )
        while running.any():
            obs, reward, terminated, truncated, infos = env.step(act(obs))
            now = infos["success"]
            success = np.where(running, (success | now) if any_time else now, success)
            total += reward * running * n_action_steps
            running &= ~(terminated | truncated)
    finally:
        env.close()
    low, high = wilson(int(success.sum()), n_episodes)
    sem = float(total.std(ddof=1) / np.sqrt(n_episodes)) if n_episodes > 1 else 0.0
    return Evaluation(float(success.mean()), low, high, float(total.mean()), sem, n_episodes)
