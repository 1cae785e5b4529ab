import numpy as np
import pytest

from sim.core.evaluate import evaluate
from sim.core.registry import make_vec, task_spec

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
