import numpy as np
import pytest

from sim.core.evaluate import evaluate, success_interval
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


def test_episodes_that_terminate_early_do_not_change_the_others():
    """A policy that looks only at how a decision began, held for 5 steps, in a task that ends."""
    alone = evaluate(lambda obs: np.ones((len(obs), 3)), "gym:Hopper-v5", 1, 0, 5)
    env = make_vec("gym:Hopper-v5", 1, 0)
    env.reset(seed=0)
    total = 0.0
    ended = False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(np.ones((1, 3)))
        total += reward[0]
        ended = bool(terminated[0] | truncated[0])
    assert alone.mean_return == pytest.approx(total, rel=1e-4)


def test_the_interval_of_a_share_is_wilsons():
    """8 of 10, with z = 1.96: (0.8 + 0.192 -+ 0.318) / 1.384."""
    assert success_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
