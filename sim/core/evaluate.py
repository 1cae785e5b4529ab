"""How well a policy does a task: success and return over whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from policy_server.contract.interval import wilson
from sim.core.hold import Hold
from sim.core.registry import make_vec
from sim.core.vec import Step

# Raw obs (n, obs_dim) -> actions (n, act_dim) in [-1, 1].
ActFn = Callable[[np.ndarray], np.ndarray]
# Raw obs (n, obs_dim) -> commands (n, horizon, act_dim) in physical units, as a bundle answers.
AnswerFn = Callable[[np.ndarray], np.ndarray]
# Rows (n,) bool whose episode begins with the next obs: a policy with memory empties theirs.
BeginFn = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        success: Share of episodes that succeeded.
        success_low: Lower end of its 95 % Wilson interval.
        success_high: Upper end of its 95 % Wilson interval.
        mean_return: Mean return.
        return_sem: Standard error of the mean return; 0 for one episode.
        n_episodes: Number of episodes.
    """

    success: float
    success_low: float
    success_high: float
    mean_return: float
    return_sem: float
    n_episodes: int

    def to_json(self) -> dict:
        """Returns plain values."""
        return asdict(self)


def evaluate(
    act: ActFn, task: str, n_episodes: int, seed: int, n_action_steps: int = 1
) -> Evaluation:
    """Returns success and return of a policy that answers normalised actions.

    Every environment runs one whole episode, and no episode is dropped for its length.

    Args:
        act: Answers actions (n, act_dim) for obs (n, obs_dim). Each is held for `n_action_steps`.
        task: Name of the task.
        n_episodes: Number of episodes, all at once.
        seed: Seeds the start states.
        n_action_steps: Control steps for each decision.

    Raises:
        ValueError: There is no such task, or `n_action_steps` does not divide its episode.
    """
    env = Hold(make_vec(task, n_episodes, seed), n_action_steps)
    return _episodes(env, lambda obs: env.step(act(obs)), seed)


def evaluate_commands(
    answer: AnswerFn,
    task: str,
    n_episodes: int,
    seed: int,
    n_action_steps: int = 1,
    begin: BeginFn = lambda rows: None,
) -> Evaluation:
    """Returns success and return of a policy that answers chunks of commands, like a bundle.

    Args:
        answer: Answers commands (n, horizon, act_dim) for obs (n, obs_dim). The first
            `n_action_steps` of them are played, one each control step.
        task: Name of the task.
        n_episodes: Number of episodes, all at once.
        seed: Seeds the start states.
        n_action_steps: Control steps for each decision, at most the horizon.
        begin: Called before an episode begins in some of the rows.

    Raises:
        ValueError: There is no such task, or the answers have another shape.
    """
    env = Hold(make_vec(task, n_episodes, seed), n_action_steps)
    return _episodes(env, lambda obs: env.step_commands(answer(obs)), seed, begin)


def _episodes(
    env: Hold, decide: Callable[[np.ndarray], Step], seed: int, begin: BeginFn = lambda rows: None
) -> Evaluation:
    """Returns the evaluation of one episode in each environment, and closes them."""
    n = env.num_envs
    any_time = env.task_spec.success_when == "any"
    running = np.ones(n, bool)
    success = np.zeros(n, bool)
    total = np.zeros(n)
    try:
        obs, _ = env.reset(seed=seed)
        begin(np.ones(n, bool))
        while running.any():
            obs, reward, terminated, truncated, infos = decide(obs)
            now = infos["success"]
            success = np.where(running, (success | now) if any_time else now, success)
            total += reward * running * infos["n_control_steps"]
            ended = terminated | truncated
            running &= ~ended
            if ended.any():
                begin(ended)
    finally:
        env.close()
    low, high = wilson(int(success.sum()), n)
    return Evaluation(
        success=float(success.mean()),
        success_low=low,
        success_high=high,
        mean_return=float(total.mean()),
        return_sem=float(total.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0,
        n_episodes=n,
    )
