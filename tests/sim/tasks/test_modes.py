import numpy as np
import pytest

from sim.core.registry import make_vec, task_names, task_spec
from sim.tasks import modes


def test_centres_by_hand():
    """At context 0 the modes lie on the plane's diagonals. The second context lifts them."""
    s = 0.6 / np.sqrt(2)
    flat = [[s, s, 0], [-s, s, 0], [-s, -s, 0], [s, -s, 0]]
    np.testing.assert_allclose(modes.centres(np.zeros((1, 2)))[0], flat, atol=1e-12)
    assert modes.centres(np.array([[0.0, 1.0]]))[0, :, 2].tolist() == [0.5, -0.5, 0.5, -0.5]


def test_the_expert_hits_and_its_mean_does_not():
    rng = np.random.default_rng(0)
    obs = np.repeat(rng.uniform(-1, 1, (20, 2)), 2000, 0)
    action = modes.expert(obs, rng)
    away = modes.distances(obs, action)
    assert (away.min(1) < modes.RADIUS).mean() == pytest.approx(0.9989, abs=0.001)
    np.testing.assert_allclose(np.bincount(away.argmin(1)) / len(obs), modes.WEIGHTS, atol=0.01)
    mean = action.reshape(20, 2000, 3).mean(1)
    assert modes.distances(obs[::2000], mean).min() > 2 * modes.RADIUS


def test_an_episode_is_one_decision():
    assert modes.TASK in task_names() and task_spec("modes").episode_steps == 1
    env = make_vec("modes", 3, seed=1)
    obs, _ = env.reset(seed=1)
    action = modes.centres(obs)[:, 2]
    action[1] = 0.0
    after, reward, terminated, truncated, infos = env.step(action)
    assert reward.tolist() == [1, 0, 1] == infos["success"].tolist()
    assert truncated.all() and not terminated.any()
    np.testing.assert_array_equal(infos["final_obs"], obs)
    assert np.abs(after - obs).min() > 0
    state = env.get_state()
    first = env.step(np.zeros((3, 3)))[0]
    env.set_state(state)
    np.testing.assert_array_equal(env.step(np.zeros((3, 3)))[0], first)
