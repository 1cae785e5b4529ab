"""The bodies are dm_control's: the same states and actions give the same obs and rewards."""

import numpy as np
import pytest
from support.suite_twin import PAIRS, Twin

from sim.core.registry import task_names, task_spec

BODIES = {
    "walker-walk": (24, 6),
    "hopper-hop": (15, 4),
    "cheetah-run": (17, 6),
    "quadruped-walk": (78, 12),
}
SINGLE = 1e-6  # relative error of a number rounded to float32, and then some


@pytest.fixture(params=BODIES)
def twin(request):
    return Twin(request.param, *PAIRS[request.param])


def test_every_task_of_the_bodies_is_compared():
    domains = {task.partition("-")[0] for task in BODIES}
    paid = {name for name in task_names() if name.partition("-")[0] in domains and "-" in name}
    assert {name for name in paid if "-mass" not in name} == set(PAIRS)


def test_a_trajectory_is_dm_controls(twin):
    twin.restart()
    walk = twin.walk(100)
    assert walk.obs.shape == (100, BODIES[twin.task.spec.name][0])
    np.testing.assert_allclose(walk.obs, walk.wanted_obs, rtol=SINGLE, atol=SINGLE)
    np.testing.assert_allclose(walk.reward, walk.wanted_reward, atol=1e-9)


def test_every_step_from_the_same_state_is_dm_controls(twin):
    twin.restart()
    walk = twin.walk(150, each_step=True, seed=1)
    assert np.ptp(walk.obs, axis=0).min() > 0  # every number moved
    np.testing.assert_allclose(walk.obs, walk.wanted_obs, rtol=SINGLE, atol=SINGLE)
    np.testing.assert_allclose(walk.reward, walk.wanted_reward, atol=1e-12)


@pytest.mark.parametrize("task", PAIRS)
def test_rewards_are_dm_controls_and_urlbs(task):
    twin = Twin(task, *PAIRS[task])
    rng = np.random.default_rng(0)
    twin.restart()
    seen = []
    for seed in range(40):
        twin.toss(rng)
        seen.append(twin.walk(1, seed=seed))
    reward = np.array([walk.reward[0] for walk in seen])
    np.testing.assert_allclose(reward, [walk.wanted_reward[0] for walk in seen], atol=1e-12)
    assert len(set(reward)) > 4 and 0 <= reward.min() < reward.max() <= 1
    if twin.task.reward:
        obs = np.array([walk.obs[0] for walk in seen])
        np.testing.assert_allclose(twin.task.reward(obs), reward, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "is_told"),
    [("hopper-stand", False), ("quadruped-jump", False), ("walker-flip", True), ("walker", False)],
)
def test_old_data_are_relabelled_only_where_the_obs_tells_the_reward(task, is_told):
    assert (task_spec(task).reward is not None) is is_told


def test_the_first_obs_of_an_episode_is_dm_controls(twin):
    obs, _ = twin.ours.reset(seed=3)
    physics = twin.theirs.physics
    state = twin.ours.get_state()["state"][0]
    with physics.reset_context():
        physics.data.qpos[:] = state[1 : 1 + physics.model.nq]
        physics.data.qvel[:] = state[1 + physics.model.nq :][: physics.model.nv]
    theirs = twin.theirs.task.get_observation(physics)
    wanted = np.concatenate([np.ravel(part) for part in theirs.values()])
    np.testing.assert_allclose(obs[0], wanted, rtol=SINGLE, atol=SINGLE)


def test_commands_are_dm_controls_actions(twin):
    spec = twin.theirs.action_spec()
    low, high = twin.task.command_range()
    np.testing.assert_array_equal(low, spec.minimum)
    np.testing.assert_array_equal(high, spec.maximum)
    assert len(low) == BODIES[twin.task.spec.name][1]
    names = [twin.theirs.physics.model.actuator(i).name for i in range(len(low))]
    assert [field.name for field in twin.task.spec.action] == [f"{name}.target" for name in names]


def test_an_episode_lasts_as_long_as_dm_controls(twin):
    assert twin.task.spec.control_period_s == twin.theirs.control_timestep()
    n_steps = twin.task.spec.episode_steps
    assert n_steps == round(twin.theirs._step_limit)


def test_pictures_show_the_joints(twin):
    twin.restart()
    walk = twin.walk(30)
    shown = twin.task.qpos(walk.obs[-1:])[0]
    true = twin.theirs.physics.data.qpos.copy()
    if twin.task.domain == "quadruped":
        np.testing.assert_allclose(shown[7:], true[7:], atol=1e-6)
        upright = 1 - 2 * (shown[4] ** 2 + shown[5] ** 2)
        assert upright == pytest.approx(twin.theirs.physics.torso_upright(), abs=1e-6)
        return
    place = twin.task.model.joint("rootx").qposadr[0]
    away = np.delete(shown - true, place)
    np.testing.assert_allclose(np.sin(away / 2), 0, atol=1e-6)  # equal up to whole turns
