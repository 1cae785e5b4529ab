"""How well a policy does a task: success and return over whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from policy_server.contract.interval import wilson
from sim.core.hold import Hold
from sim.core.registry import make_vec, task_spec
from sim.core.seeds import seeded_globals
from sim.core.spec import TaskSpec
from sim.core.vec import Step, copy_seeds

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
        success: Share of episodes that succeeded. None: the task reports no success.
        success_low: Lower end of its 95 % Wilson interval, or None.
        success_high: Upper end of its 95 % Wilson interval, or None.
        mean_return: Mean return.
        return_sem: Standard error of the mean return; 0 for one episode.
        n_episodes: Number of episodes.
    """

    success: float | None
    success_low: float | None
    success_high: float | None
    mean_return: float
    return_sem: float
    n_episodes: int

    def to_json(self) -> dict:
        """Returns plain values; null where nothing is reported."""
        return asdict(self)

    def said(self) -> str:
        """Returns success and return as a person reads them."""
        known = (self.success, self.success_low, self.success_high)
        success = "success not reported by the task"
        if None not in known:
            success = "success {:.3f} [{:.3f}, {:.3f}]".format(*known)
        return f"{success}, return {self.mean_return:.2f}"


def evaluate(
    act: ActFn, task: str, n_episodes: int, seed: int, n_action_steps: int = 1
) -> Evaluation:
    """Returns success and return of a policy that answers normalised actions.

    Every environment runs one whole episode, and no episode is dropped for its length.

    Args:
        act: Answers actions (n, act_dim) for obs (n, obs_dim). Each is held for `n_action_steps`.
        task: Name of the task.
        n_episodes: Number of episodes. They run at once, as far as the task's `max_copies` goes.
        seed: Seeds the start states.
        n_action_steps: Control steps for each decision.

    Raises:
        ValueError: There is no such task, or its episode is shorter than `n_action_steps`.
        NotFinite: The environment gave a number that is not finite.
    """
    with seeded_globals(seed):
        env = _made(task, n_episodes, seed, n_action_steps)
        return _evaluation(env, lambda obs: env.step(act(obs)), n_episodes, seed)


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
        n_episodes: Number of episodes. They run at once, as far as the task's `max_copies` goes.
        seed: Seeds the start states.
        n_action_steps: Control steps for each decision, at most the horizon.
        begin: Called before an episode begins in some of the rows.

    Raises:
        ValueError: There is no such task, or the answers have another shape.
        NotFinite: The environment gave a number that is not finite.
    """
    with seeded_globals(seed):
        env = _made(task, n_episodes, seed, n_action_steps)
        return _evaluation(env, lambda obs: env.step_commands(answer(obs)), n_episodes, seed, begin)


def copies(spec: TaskSpec, n_episodes: int) -> int:
    """Returns how many copies of a task run `n_episodes` at once, in groups of equal size."""
    n_groups = -(-n_episodes // (spec.max_copies or n_episodes))
    return -(-n_episodes // n_groups)


def _made(task: str, n_episodes: int, seed: int, n_action_steps: int) -> Hold:
    """Returns as many copies of a task as evaluate `n_episodes` at once.

    Args:
        task: Name of the task.
        n_episodes: Number of episodes.
        seed: Seeds the start states.
        n_action_steps: Control steps for each decision.
    """
    if n_episodes < 1:
        raise ValueError(f"{n_episodes} episodes: give 1 or more")
    return Hold(make_vec(task, copies(task_spec(task), n_episodes), seed), n_action_steps)


def _evaluation(
    env: Hold,
    decide: Callable[[np.ndarray], Step],
    n_episodes: int,
    seed: int,
    begin: BeginFn = lambda rows: None,
) -> Evaluation:
    """Returns the evaluation of `n_episodes`, one in each copy, group after group; closes them.

    Copies of several groups have the seeds that they would have if all ran at once.

    Args:
        env: The copies.
        decide: Takes a decision for raw observations.
        n_episodes: Number of episodes.
        seed: Seeds the start states.
        begin: Called before an episode begins in some of the rows.
    """
    n = env.num_envs
    seeds: list[int | list[int]] = [seed]
    if n < n_episodes:
        each = copy_seeds(seed, n * -(-n_episodes // n))
        seeds = [each[first : first + n] for first in range(0, n_episodes, n)]
    try:
        groups = [_episodes(env, decide, seed, begin) for seed in seeds]
    finally:
        env.close()
    total = np.concatenate([group.total for group in groups])[:n_episodes]
    success = np.concatenate([group.success for group in groups])[:n_episodes]
    known = (None, None, None)
    if any(group.reports for group in groups):
        known = (float(success.mean()), *wilson(int(success.sum()), n_episodes))
    return Evaluation(
        *known,
        mean_return=float(total.mean()),
        return_sem=float(total.std(ddof=1) / np.sqrt(n_episodes)) if n_episodes > 1 else 0.0,
        n_episodes=n_episodes,
    )


@dataclass(frozen=True)
class _Group:
    """Outcome of one episode in each of n copies.

    Attributes:
        total: Returns (n,).
        success: (n,) bool.
        reports: Whether the environment reported a success at all.
    """

    total: np.ndarray
    success: np.ndarray
    reports: bool


def _episodes(
    env: Hold, decide: Callable[[np.ndarray], Step], seed: int | list[int], begin: BeginFn
) -> _Group:
    """Returns the outcome of one episode in each copy.

    Args:
        env: The copies.
        decide: Takes a decision for raw observations.
        seed: Seeds the start states; a list has a seed for each copy.
        begin: Called before an episode begins in some of the rows.
    """
    n = env.num_envs
    any_time = env.task_spec.success_when == "any"
    running = np.ones(n, bool)
    success = np.zeros(n, bool)
    reports = False
    total = np.zeros(n)
    obs, _ = env.reset(seed=seed)  # type: ignore[arg-type]
    begin(running)
    for _ in range(-(-env.task_spec.episode_steps // env.n_action_steps)):
        if not running.any():
            break
        obs, _, terminated, truncated, infos = decide(obs)
        if "success" in infos:
            reports = True
            now = infos["success"]
            success = np.where(running, (success | now) if any_time else now, success)
        total += infos["reward_sum"] * running
        ended = terminated | truncated
        running = running & ~ended
        if ended.any():
            begin(ended)
    return _Group(total, success, reports)
