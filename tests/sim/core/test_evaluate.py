from dataclasses import replace

import numpy as np
import pytest
from support import toys

from sim.core.evaluate import copies, evaluate
from sim.core.registry import make_vec, task_spec

assert toys  # its import registers the environments
TASK = "arm-reach-left"


def test_evaluation_counts_every_episode_once():
    result = evaluate(lambda obs: np.zeros((len(obs), 6)), TASK, 7, 0, 10)
    assert result.n_episodes == 7
    assert 0 <= result.success_low <= result.success <= result.success_high <= 1
    env = make_vec(TASK, 7, 0)
    env.reset(seed=0)
    total = np.zeros(7)
    for _ in range(task_spec(TASK).episode_steps):
        _, reward, *_ = env.step(np.zeros((7, 6)))
        total += reward
    assert result.mean_return == pytest.approx(total.mean(), rel=1e-4)
    assert result.return_sem == pytest.approx(total.std(ddof=1) / np.sqrt(7), rel=1e-3)


def test_an_episode_that_terminates_does_not_cut_the_decisions_of_others():
    """Five hoppers fall after 7 to 25 control steps; each action is held for 5."""

    def act(obs):
        return np.sin(300 * obs[:, 4:7])

    task = "gym:Hopper-v5"
    found = evaluate(act, task, 5, 0, n_action_steps=5)
    env = make_vec(task, 5, 0)
    obs, _ = env.reset(seed=0)
    lengths = np.zeros(5, int)
    total = np.zeros(5)
    running = np.ones(5, bool)
    for k in range(30):
        if k % 5 == 0:
            action = act(obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        total += reward * running
        lengths += running
        running &= ~(terminated | truncated)
    assert not running.any() and len(set(lengths % 5)) > 1  # some fall in the middle of a hold
    assert found.mean_return == pytest.approx(total.mean(), rel=1e-5)


def test_a_bounded_number_of_copies_runs_every_episode_that_all_at_once_would(monkeypatch):
    """75 episodes in 3 groups of 25; an episode's return is its length, which the seed decides."""
    made = []

    def watched(task, n_envs, seed):
        made.append(n_envs)
        return make_vec(task, n_envs, seed)

    monkeypatch.setattr("sim.core.evaluate.make_vec", watched)
    task = "gym:EdpUnequal-v0"
    found = evaluate(lambda obs: np.zeros((len(obs), 1)), task, 75, seed=3, n_action_steps=4)
    lengths = make_vec(task, 75).reset(seed=3)[0][:, 1]
    assert made == [25] and found.n_episodes == 75
    assert found.mean_return == pytest.approx(lengths.mean())
    assert found.return_sem == pytest.approx(lengths.std(ddof=1) / np.sqrt(75))


def test_a_task_of_one_world_runs_all_at_once():
    spec = task_spec(TASK)
    assert copies(spec, 300) == 300
    assert [copies(replace(spec, max_copies=32), n) for n in (1, 32, 33, 200)] == [1, 32, 17, 29]


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize(("task", "length"), [("EdpEndless-v0", 1_000), ("EdpEndlessLimit-v0", 30)])
def test_an_episode_ends_where_the_task_says(task, length, n):
    found = evaluate(lambda obs: np.zeros((len(obs), 1)), f"gym:{task}", 2, 0, n)
    assert found.mean_return == length == task_spec(f"gym:{task}").episode_steps


def test_a_success_that_is_reported_at_times_is_reported():
    """The hand of FetchReach does not move: it succeeds nowhere, and that is a 0."""
    found = evaluate(lambda obs: np.zeros((len(obs), 4)), "gym:FetchReach-v4", 2, 0, 10)
    assert found.success == 0 and found.said().startswith("success 0.000 [0.000, ")
    silent = evaluate(lambda obs: np.zeros((len(obs), 2)), "maze-square-a", 2, 0, 10)
    assert silent.success is None and "not reported" in silent.said()
