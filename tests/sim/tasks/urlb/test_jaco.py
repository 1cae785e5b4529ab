import mujoco
import numpy as np
import pytest
from dm_control import manipulation

from sim.core.registry import make_task
from sim.tasks.mujoco_task import FULL_STATE
from sim.tasks.urlb.jaco import JACO_TASKS, TOUCHING
from sim.tasks.urlb.jaco_poses import drawn_poses, poses
from sim.tasks.urlb.measured import Readings

N_STEPS = 25
BRICK = slice(9, 12)  # the brick's place in qpos


@pytest.fixture(scope="module")
def task():
    return make_task("jaco-reach-top-left")


def above_brick(task):
    """Returns a start (1 + nq + nv,) with the brick in the air, 8 cm under the pinch site."""
    state = task.starts[0][0].copy()
    data = mujoco.MjData(task.model)
    mujoco.mj_setState(task.model, data, state, FULL_STATE)
    mujoco.mj_forward(task.model, data)
    state[1:][BRICK] = data.site("hand_pinchsite").xpos - (0, 0, 0.08)
    return state


def test_every_step_is_dm_controls(task):
    """From the same state and command: obs, reward; the brick falls through the target's radius."""
    theirs = manipulation.load("reach_duplo_features", 0)
    theirs.reset()
    physics = theirs.physics
    ours = task.make_vec(1, 0)
    ours.reset()
    ours._state[0] = above_brick(task)
    mujoco.mj_setState(physics.model.ptr, physics.data.ptr, ours._state[0], FULL_STATE)
    mujoco.mj_forward(physics.model.ptr, physics.data.ptr)
    rng = np.random.default_rng(0)
    paid = []
    for _ in range(N_STEPS):
        mujoco.mj_getState(physics.model.ptr, physics.data.ptr, ours._state[0], FULL_STATE)
        action = rng.uniform(-1, 1, (1, 9))
        expected = theirs.step(action[0] * task.command_range()[1])
        obs, reward, *_ = ours.step(action)
        flat = np.concatenate([np.ravel(part) for part in expected.observation.values()])
        np.testing.assert_allclose(obs[0], flat, atol=5e-6)
        np.testing.assert_allclose(reward[0], expected.reward, atol=1e-5)
        paid.append(expected.reward)
    assert max(paid) > 0.1


def test_the_pose_follows_from_the_obs(task):
    """What the obs tells of a moving world, put back, reads as that obs again."""
    env = task.make_vec(4, 0)
    env.reset()
    env._state[:] = above_brick(task)
    for _ in range(5):
        obs, *_ = env.step(np.random.default_rng(1).uniform(-1, 1, (4, 9)))
    seen = Readings(task.model)(task.qpos(obs), np.zeros((4, task.model.nv)))
    again = task.observe(seen, np.zeros((4, 9)))
    fields = ("joint_angles", "fingers", "pinch_position", "pinch_rotation")
    for name in (*fields, "brick_orientation", "brick_position"):
        place = task.spec.obs_slice(name)
        np.testing.assert_allclose(again[:, place], obs[:, place], atol=1e-5)


@pytest.mark.parametrize("name", list(JACO_TASKS))
def test_episodes_begin_above_the_brick_in_its_corner(name):
    """The hand points down, 20 to 40 cm above the floor; the brick lies still, turned at random."""
    task = make_task(name)
    states, readings = task.starts
    seen = task.measured(readings)
    pinch = seen("framepos.hand_pinchsite")
    assert (np.abs(pinch[:, :2]) < 0.1001).all()
    assert (pinch[:, 2] > 0.1999).all() and (pinch[:, 2] < 0.4001).all()
    np.testing.assert_allclose(seen("framezaxis.hand_pinchsite")[:, 2], -1, atol=1e-5)
    corner_m, _ = JACO_TASKS[name]
    np.testing.assert_allclose(states[:, 1:][:, 9:11], np.tile(corner_m, (1024, 1)))
    turns = 2 * np.arctan2(states[:, 1 + 15], states[:, 1 + 12])
    assert np.histogram(turns, bins=8, range=(-np.pi, np.pi))[0].min() > 80


def test_the_brick_rests_as_dm_control_settles_it(task):
    theirs = manipulation.load("reach_duplo_features", 3)
    theirs.reset()
    qpos = theirs.physics.data.qpos
    qvel = theirs.physics.data.qvel
    state = task.starts[0][0]
    np.testing.assert_allclose(state[1 + 11], qpos[11], atol=1e-6)
    np.testing.assert_allclose(state[1 + 16 :][9:], qvel[9:], atol=5e-5)


def test_a_first_obs_is_dm_controls(task):
    theirs = manipulation.load("reach_duplo_features", 0)
    expected = theirs.reset().observation
    physics = theirs.physics
    data = mujoco.MjData(task.model)
    data.qpos[:] = physics.position()
    data.qvel[:] = physics.velocity()
    mujoco.mj_forward(task.model, data)
    obs = task.observe(data.sensordata[None], np.zeros((1, 9)))
    flat = np.concatenate([np.ravel(part) for part in expected.values()])
    np.testing.assert_allclose(obs[0], flat, atol=1e-6)


def test_shipped_poses_are_those_dm_control_draws():
    np.testing.assert_allclose(drawn_poses(3, seed=0), poses()[:3], atol=1e-4)


def test_exploration_is_of_hand_brick_joints_and_what_touches(task):
    """A finger tip is set into the brick: both touch, and the numbers are the simulation's."""
    data = mujoco.MjData(task.model)
    mujoco.mj_setState(task.model, data, task.starts[0][0], FULL_STATE)
    mujoco.mj_forward(task.model, data)
    data.qpos[BRICK] = data.body("hand_b_finger_tip_2").xipos
    mujoco.mj_forward(task.model, data)
    row = task.explored(data.sensordata[None], np.zeros((1, 9)))[0]
    np.testing.assert_allclose(row[:3], data.site("hand_pinchsite").xpos)
    np.testing.assert_allclose(row[3:6], data.site("brick_bounding_box").xpos)
    np.testing.assert_allclose(row[6:12], data.qpos[:6])
    touching = dict(zip(TOUCHING, row[12:] > 0, strict=True))
    assert touching["brick"] and touching["hand_b_finger_tip_2"]
    counter = task.new_coverage()
    counter.visit(row[None], row[None, None])
    assert counter.measures() == {
        "coverage_hand": 1 / 5200,
        "coverage_brick": 1 / 6912,
        "coverage_joints": 1 / 8**3 / 4**3,
        "n_contacts": 1,
    }


def test_the_task_without_reward_pays_nothing():
    env = make_task("jaco").make_vec(2, 0)
    obs, _ = env.reset()
    assert obs.shape == (2, 55) and make_task("jaco").spec.reward is None
    assert not env.step(np.ones((2, 9)))[1].any()
