import mujoco
import numpy as np
import pytest

from sim.core.registry import make_vec, task_spec
from sim.tasks import arm, arm_push
from sim.tasks.mujoco_task import N_STARTS

FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS
FOLDED = np.array(arm.REST_POSE)
# Fingers on the desk, .246 m from the arm's foot, to the right of straight ahead.
BESIDE = np.array([-0.144, 1.23, -1.353, 1.66, 0.0, 0.0])
PUCK_XY = slice(22, 24)


def placed(task, qpos, puck, puck_vel=(0.0, 0.0, 0.0)):
    """Returns one copy of `task` whose arm rests at `qpos` (6,), and whose puck is as given."""
    env = make_vec(task, 1, 0)
    env.reset()
    data = mujoco.MjData(env.model)
    data.qpos[:6] = qpos
    data.qpos[7:10] = puck
    data.qvel[7:10] = puck_vel
    mujoco.mj_forward(env.model, data)
    state = np.empty(mujoco.mj_stateSize(env.model, FULL))
    mujoco.mj_getState(env.model, data, state, FULL)
    own = {"state": state[None], "sensor": data.sensordata[None], "command": np.array(qpos)[None]}
    env.set_state(env.get_state() | own)
    return env


def path_of_puck(env, n_steps):
    """Returns the puck's place and velocity (n_steps, 6) while the arm keeps its pose."""
    return np.array([env.step(np.zeros((1, 6)))[0][0, 22:28] for _ in range(n_steps)])


@pytest.mark.parametrize("name", ["arm-puck", "arm-push"])
def test_spec_and_environment_agree(name):
    spec = task_spec(name)
    env = make_vec(name, 2, 0)
    obs, _ = env.reset()
    assert spec.obs_dim == obs.shape[1] == 31 and spec.act_dim == 6
    assert [f.name for f in spec.obs[5:]] == ["puck", "puck_vel", "hand_to_puck"]
    assert spec.obs[:5] == task_spec("arm").obs  # the arm's numbers keep their places
    assert spec.action == task_spec("arm").action
    assert (spec.reward is None) == (name == "arm-puck")
    assert spec.success_when == ("end" if name == "arm-push" else "any")
    assert spec.terminated is None


def test_the_world_is_the_arms_with_a_puck_in_it():
    ours = arm_push.load_puck_model()
    theirs = arm.load_model()
    n_bodies = theirs.nbody
    assert (ours.nq, ours.nv) == (theirs.nq + 3, theirs.nv + 3)
    assert ours.nsensordata == theirs.nsensordata + 6
    np.testing.assert_array_equal(ours.body_mass[:n_bodies], theirs.body_mass)
    np.testing.assert_array_equal(ours.body_pos[:n_bodies], theirs.body_pos)
    np.testing.assert_array_equal(ours.jnt_range[: theirs.njnt], theirs.jnt_range)
    np.testing.assert_array_equal(ours.actuator_gainprm, theirs.actuator_gainprm)
    np.testing.assert_array_equal(ours.dof_damping[: theirs.nv], theirs.dof_damping)
    assert ours.opt.timestep == theirs.opt.timestep


def test_the_mark_and_the_field_of_the_picture_are_those_of_the_task():
    model = arm_push.load_puck_model()
    np.testing.assert_array_equal(model.site("mark").pos[:2], arm_push.MARK)
    assert model.site("mark").size[0] == arm_push.AT_MARK_M
    ranges = np.array([model.joint(name).range for name in ("puck_x", "puck_y")])
    np.testing.assert_array_equal(ranges.T, arm_push.FIELD_M)
    assert arm_push.PuckTask().qpos(np.zeros((2, 31))).shape == (2, model.nq)


def test_observe_puts_every_number_in_its_place():
    sensor = np.arange(22.0)[None]
    obs = arm_push.PuckTask().observe(sensor, 100 + np.arange(6.0)[None])
    arms = [*range(12), *range(100, 106), 12, 13, 14, 15]
    assert obs.dtype == np.float32
    assert obs.tolist() == [[*arms, 16, 17, 18, 19, 20, 21, 16 - 12, 17 - 13, 18 - 14]]


def test_pictures_put_the_puck_where_the_obs_has_it():
    env = placed("arm-puck", BESIDE, (0.3, -0.1, 0.02))
    obs = path_of_puck(env, 1)
    full = np.zeros((1, 31))
    full[:, 22:28] = obs
    np.testing.assert_array_equal(arm_push.PuckTask().qpos(full)[0, 7:], obs[0, :3])


@pytest.mark.parametrize("kind", ["rest", "random"])
def test_start_states_touch_nothing_and_keep_the_puck_from_the_mark(kind):
    model = arm_push.load_puck_model()
    states, sensors = arm_push.puck_starts(kind)
    low, high = arm_push.FIELD_M
    assert len(states) == N_STARTS
    data = mujoco.MjData(model)
    for state, sensor in zip(states[::16], sensors[::16], strict=True):
        mujoco.mj_setState(model, data, state, FULL)
        mujoco.mj_forward(model, data)
        assert data.ncon == 0 and not data.qvel.any()
        np.testing.assert_allclose(sensor, data.sensordata, atol=1e-12)
    place = sensors[:, 16:18]
    assert (place > low).all() and (place < high).all()
    assert np.linalg.norm(place - arm_push.MARK, axis=1).min() >= arm_push.NEAR_M
    assert sensors[:, 14].min() >= arm.FLOOR_M
    wide = np.ptp(place, axis=0).min() > 0.08
    assert wide if kind == "random" else np.abs(place - arm_push.REST_PLACE).max() <= 0.01


def test_success_computed_by_hand():
    obs = np.zeros((3, 31), np.float32)
    obs[:, PUCK_XY] = arm_push.MARK
    obs[1, 22] += 0.029
    obs[2, 23] -= 0.031
    assert task_spec("arm-push").success(obs).tolist() == [True, True, False]
    assert task_spec("arm-puck").success(obs).tolist() == [True, True, False]


def test_reward_computed_by_hand():
    obs = np.zeros((3, 31), np.float32)
    obs[:, PUCK_XY] = arm_push.MARK  # the hand is to be in the puck's middle, 15 mm high
    obs[:, 18:21] = (*arm_push.MARK, 0.015)
    obs[1:, 22] -= 0.07  # .07 * 45 mm / 80 mm behind that: 39.4 mm
    obs[1, 18] -= 0.07 + 0.045 * 0.07 / 0.08
    obs[2, 20] += 5.0
    place = 0.4 * (1 - 0.07 / 0.35) + 0.35 * np.exp(-0.07 / 0.03)
    reward = task_spec("arm-push").reward(obs)
    np.testing.assert_allclose(reward, [1.0, place + 0.25, place], rtol=1e-5)


def test_a_puck_that_is_left_alone_stays_where_it_is():
    path = path_of_puck(placed("arm-push", FOLDED, (0.22, -0.1, arm_push.DROP_M)), 200)
    np.testing.assert_allclose(path[-1, :3], [0.22, -0.1, 0.0], atol=2e-4)
    assert np.abs(path[50:, 3:]).max() < 1e-6


def test_a_puck_that_was_hit_slides_as_friction_says_and_stops():
    """It slides v^2 / (2 mu g) = .36 / 15.7 = 2.3 cm."""
    path = path_of_puck(placed("arm-push", FOLDED, (0.22, -0.1, 0.0), (0.0, 0.6, 0.0)), 100)
    assert path[-1, 1] + 0.1 == pytest.approx(0.023, abs=0.003)
    assert np.abs(path[-1, 3:]).max() < 1e-6


@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5, 4.0])
def test_a_puck_that_is_thrown_stays_in_the_field_and_in_what_is_observed(angle):
    thrown = (2 * np.cos(angle), 2 * np.sin(angle), 1.0)  # faster than the arm's fingers
    env = placed("arm-push", FOLDED, (0.22, 0.0, 0.0), thrown)
    path = path_of_puck(env, 150)
    low, high = arm_push.FIELD_M
    assert (path[:, :2] >= np.array(low) - 0.01).all()
    assert (path[:, :2] <= np.array(high) + 0.01).all()
    assert path[:, 2].max() > 0.02  # it flew
    np.testing.assert_allclose(path[-1, 2:], 0.0, atol=2e-4)  # and lies still again


def test_an_episode_goes_on_where_the_puck_is_out_of_reach():
    env = placed("arm-push", FOLDED, (0.34, -0.24, 0.0))
    _, _, terminated, truncated, _ = env.step(np.zeros((1, 6)))
    assert not terminated.any() and not truncated.any()


def test_a_finger_that_sweeps_pushes_the_puck_to_the_mark_and_leaves_it_there():
    env = placed("arm-push", BESIDE, (0.231, 0.028, 0.0))
    at_mark = []
    rewards = []
    for k in range(100):
        sweep = np.zeros((1, 6))
        sweep[0, 0] = 0.4 if k < 54 else 0.0
        _, reward, _, _, infos = env.step(sweep)
        at_mark.append(infos["success"][0])
        rewards.append(reward[0])
    assert not any(at_mark[:30]) and all(at_mark[60:])
    assert rewards[-1] > rewards[20] > 0


def test_observations_of_wild_motion_stay_in_the_space():
    env = make_vec("arm-push", 64, 0)
    rng = np.random.default_rng(0)
    start, _ = env.reset()
    moved = np.zeros(64)
    for k in range(300):
        if k % 20 == 0:
            action = rng.choice([-1, 1], (64, 6))
        obs, *_ = env.step(action)
        moved = np.maximum(moved, np.linalg.norm(obs[:, PUCK_XY] - start[:, PUCK_XY], axis=1))
        place = obs[:, 22:25]
        space = env.single_observation_space
        assert (place >= space.low[22:25]).all() and (place <= space.high[22:25]).all()
    assert (moved > 0.02).sum() > 3  # some were hit


def test_coverage_counts_squares_of_the_puck_and_voxels_of_the_hand():
    counter = task_spec("arm-puck").new_coverage()
    path = np.zeros((3, 1, 31), np.float32)
    path[:, 0, PUCK_XY] = [(0.11, 0.01), (0.115, 0.015), (0.33, -0.23)]
    path[:, 0, arm.END_EFFECTOR] = (0.2, 0.0, 0.2)
    counter.visit(path[0], path)
    assert counter.measures()["coverage_puck"] == counter.share() == pytest.approx(2 / (12 * 24))
    assert counter.measures()["coverage_hand"] > 0


def test_the_reward_that_is_paid_is_that_of_the_obs():
    env = make_vec("arm-push", 8, 0)
    env.reset()
    obs, reward, _, _, _ = env.step(np.ones((8, 6)))
    np.testing.assert_array_equal(reward, task_spec("arm-push").reward(obs))
