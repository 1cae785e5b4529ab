import numpy as np
import pytest
from support.suite_twin import PAIRS, Twin

from sim.core.registry import make_task, make_vec, task_names, task_spec

WALKER_SCALES = (0.2, 0.6, 1.0, 1.4, 1.8)


def walker_mass(model):
    return model.body_mass.sum() / make_task("walker").model.body_mass.sum()


@pytest.mark.parametrize(
    ("task", "scale"),
    [("walker-walk", 1.4), ("walker-flip", 0.2), ("quadruped-walk", 0.4), ("quadruped-jump", 1.4)],
)
def test_a_heavier_body_is_dm_controls_with_all_masses_scaled(task, scale):
    domain, _, rest = task.partition("-")
    twin = Twin(f"{domain}-mass-{rest}?scale={scale}", *PAIRS[task], mass_scale=scale)
    twin.restart()
    walk = twin.walk(100)
    np.testing.assert_allclose(walk.obs, walk.wanted_obs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(walk.reward, walk.wanted_reward, atol=1e-9)


def test_a_heavier_walker_reads_its_true_speed():
    task = make_task("walker-mass-walk?scale=1.8")
    qvel = np.zeros((1, 9))
    qvel[0, 1] = 0.75  # rootx [m/s]
    seen = task.measured(task._simulator(np.zeros((1, 9)), qvel))
    assert seen("torso_subtreelinvel")[0, 0] == pytest.approx(0.75)


def test_episodes_that_begin_at_once_share_the_masses_evenly_and_later_ones_draw_anew():
    env = make_vec("walker-mass", 10, 0)
    seen = set()
    for _ in range(20):
        env.reset()
        masses = [walker_mass(env._worlds[i]) for i in env._world]
        np.testing.assert_allclose(np.sort(masses), np.repeat(WALKER_SCALES, 2))
        seen.add(round(masses[0], 6))
    assert seen == set(WALKER_SCALES)


def test_each_copy_steps_as_a_body_of_its_mass_does():
    env = make_vec("walker-mass-walk", 5, 0)
    env.reset(seed=1)
    state = env.get_state()
    action = np.random.default_rng(0).uniform(-1, 1, (5, 6))
    obs, reward, *_ = env.step(action)
    for copy in range(5):
        alone = make_vec(f"walker-mass-walk?scale={WALKER_SCALES[env._world[copy]]}", 1, 0)
        alone.reset()
        alone.set_state(alone.get_state() | {"state": state["state"][[copy]]})
        its_obs, its_reward, *_ = alone.step(action[[copy]])
        np.testing.assert_array_equal(obs[copy], its_obs[0])
        assert reward[copy] == its_reward[0]


def test_a_saved_state_goes_on_with_its_masses():
    env = make_vec("walker-mass", 3, 0)
    env.reset(seed=0)
    saved = env.get_state()
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 3, 6))
    wanted = [env.step(action)[0] for action in actions]
    other = make_vec("walker-mass", 3, 9)
    other.reset(seed=1)
    assert other._world.tolist() != env._world.tolist()
    other.set_state(saved)
    np.testing.assert_array_equal([other.step(action)[0] for action in actions], wanted)


def test_the_same_seed_draws_the_same_masses():
    drawn = []
    for seed in (4, 4):
        env = make_vec("quadruped-mass", 3, 0)
        env.reset(seed=seed)
        drawn.append(env._world.tolist())
    assert drawn[0] == drawn[1]


def test_a_reward_that_needs_the_mass_follows_from_the_obs_only_where_there_is_one():
    assert task_spec("walker-mass-flip").reward is None
    assert task_spec("walker-mass-walk").reward is not None
    twin = Twin("walker-mass-flip?scale=0.6", *PAIRS["walker-flip"], mass_scale=0.6)
    twin.restart()
    walk = twin.walk(20)
    np.testing.assert_allclose(twin.task.reward(walk.obs), walk.wanted_reward, atol=1e-5)


def test_each_task_of_the_body_has_one_of_many_masses():
    names = task_names()
    for domain in ("walker", "quadruped"):
        plain = {name for name in names if name.partition("-")[0] == domain and "mass" not in name}
        heavy = {name for name in names if name.startswith(f"{domain}-mass")}
        assert heavy == {name.replace(domain, f"{domain}-mass") for name in plain}


def test_a_scale_that_is_no_mass_is_refused():
    with pytest.raises(ValueError, match=r"scale must be a positive number, got -1"):
        make_task("walker-mass?scale=-1")
