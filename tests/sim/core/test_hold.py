"""Held actions on environments whose episodes end anywhere."""

import numpy as np
import pytest
from support import toys

from sim.core.evaluate import evaluate, evaluate_commands
from sim.core.hold import Hold
from sim.core.registry import make_vec
from sim.tasks.gym import GymTask

assert toys  # its import registers the environments
UNEQUAL = "gym:EdpUnequal-v0"
N = 8


def zeros(obs):
    return np.zeros((len(obs), 1))


def chunks(obs):
    return np.zeros((len(obs), 10, 1))


@pytest.mark.parametrize("task", [UNEQUAL, "gym:EdpUnequalLimit-v0"])
def test_returns_are_those_of_the_episodes_whatever_the_hold(task):
    """13 control steps, the limit of the second task, are no multiple of any of these holds."""
    plain = evaluate(zeros, task, N, 0)
    for n in (3, 5, 10):
        assert evaluate(zeros, task, N, 0, n) == plain
        assert evaluate_commands(chunks, task, N, 0, n) == plain
    assert plain.success is None and plain.to_json()["success_low"] is None


@pytest.mark.parametrize(("mode", "n"), [("sync", 8), ("async", 2)])
def test_every_episode_begins_with_a_decision_on_its_first_observation(mode, n):
    """Each decision plays another action. What the copies show belongs to one decision alone."""
    env = Hold(GymTask("support.toys:EdpUnequal-v0", vectorization=mode).make_vec(n, 0), 5)
    try:
        obs, _ = env.reset()
        n_short = 0
        for decision in range(1, 13):
            action = np.full((n, 1), decision / 20)
            before = obs
            obs, reward, terminated, truncated, infos = env.step(action)
            ended = terminated | truncated
            n_played = infos["n_control_steps"]
            assert (n_played == np.minimum(5, before[:, 1] - before[:, 0])).all()
            assert (infos["path"][..., 2] == np.float32(decision / 2)).all()
            assert (infos["path"][..., 1] == before[:, 1]).all()  # of the same episode
            assert (infos["path"][-1] == infos["final_obs"]).all()
            assert (obs[ended][:, [0, 2]] == 0).all()  # a reset's, no control step played
            np.testing.assert_allclose(reward, n_played / 5)
            assert (infos["reward_sum"] == n_played).all()
            n_short += int((n_played < 5).sum())
        assert n_short > n / 2
    finally:
        env.close()


def test_a_whole_decision_is_as_it_was_before():
    """Where all copies run, a step has no second argument: other environments need not know it."""
    env = make_vec("arm-press", 2, 0)
    plain = env.step
    env.step = lambda actions: plain(actions)  # type: ignore[method-assign]
    held = Hold(env, 10)
    held.reset(seed=0)
    twin = make_vec("arm-press", 2, 0)
    twin.reset(seed=0)
    action = np.full((2, 6), 0.3)
    path = [twin.step(action)[0] for _ in range(10)]
    np.testing.assert_array_equal(held.step(action)[-1]["path"], path)


@pytest.mark.parametrize("n", [0, -2, 14])
def test_a_hold_longer_than_an_episode_is_refused(n):
    with pytest.raises(ValueError, match="13 control steps; give 1 to that many"):
        Hold(make_vec("gym:EdpUnequalLimit-v0", 1), n)
