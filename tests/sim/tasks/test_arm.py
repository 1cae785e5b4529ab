import mujoco
import numpy as np
import pytest

from sim.core.hold import Hold
from sim.core.registry import make_vec, task_spec
from sim.tasks import arm
from sim.tasks.arm_reach import VOXEL_M, reachable_voxels
from sim.tasks.mujoco_task import N_STARTS

N_SUBSTEPS = 5
ABOVE = np.array([-0.524, -1.2, -1.55, 0.8, 0.0, 0.1])  # leaning back, forearm over the button
COMMAND = slice(12, 18)
FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS


def place(env, qpos):
    """Puts the only simulation of `env` at rest at `qpos` (6,), commanded to stay."""
    data = mujoco.MjData(env.model)
    data.qpos[:6] = qpos
    mujoco.mj_forward(env.model, data)
    state = np.empty(mujoco.mj_stateSize(env.model, FULL))
    mujoco.mj_getState(env.model, data, state, FULL)
    env.set_state(
        env.get_state()
        | {"state": state[None], "sensor": data.sensordata[None], "command": np.array(qpos)[None]}
    )


def pose_at(point, seed=0):
    """Joint angles (6,) whose end effector is nearest to `point`, and the distance [m].

    They come from a random search.
    """
    model = arm.load_model()
    rng = np.random.default_rng(seed)
    low, high = arm.joint_range()
    data = mujoco.MjData(model)

    def error(q):
        data.qpos[:6] = q
        mujoco.mj_kinematics(model, data)
        return np.linalg.norm(data.site_xpos[0] - point)

    best = min((rng.uniform(low, high) for _ in range(2000)), key=error)
    for k in range(1000):
        best = min(best, np.clip(best + 0.2 * 0.995**k * rng.normal(size=6), low, high), key=error)
    return best, error(best)


@pytest.mark.parametrize("name", arm.ARM_TASKS)
def test_spec_and_environment_agree(name):
    spec = task_spec(name)
    env = make_vec(name, 2, 0)
    obs, _ = env.reset()
    assert (
        spec.obs_dim == obs.shape[1] == 22 and spec.act_dim == env.single_action_space.shape[0] == 6
    )
    assert [f.start for f in spec.obs] == [0, 6, 12, 18, 21]
    assert spec.obs_slice("command") == slice(12, 18) and spec.action_map.command_start == 12
    assert [f.name for f in spec.action] == [f"{joint}.target" for joint in arm.JOINTS]
    assert all(f.unit == "rad" and f.max_rate == (3.0,) for f in spec.action)
    assert spec.control_period_s == pytest.approx(N_SUBSTEPS * env.model.opt.timestep) == 0.01
    np.testing.assert_allclose(spec.action_map.scale, 0.03)  # 3 rad/s for 10 ms
    assert (spec.reward is None) == (name == "arm")
    assert spec.episode_steps == (400 if name == "arm" else 200)
    assert spec.success_when == ("end" if "reach" in name else "any")


def test_the_specs_limits_are_the_worlds():
    model = arm.load_model()
    spec = task_spec("arm")
    low, high = arm.joint_range()
    for j, joint in enumerate(arm.JOINTS):
        np.testing.assert_array_equal(model.joint(joint).range, [low[j], high[j]])
        np.testing.assert_allclose(model.actuator(joint).ctrlrange, [low[j], high[j]], atol=1e-12)
        assert (spec.action[j].low[0], spec.action[j].high[0]) == (low[j], high[j])
    assert spec.action_map.low == tuple(low) and spec.action_map.high == tuple(high)
    assert spec.obs[0].low == spec.obs[2].low == tuple(low)


@pytest.mark.parametrize("kind", ["rest", "random"])
def test_start_poses_are_at_rest_free_of_contact_and_inside_the_limits(kind):
    model = arm.load_model()
    states, sensors = arm.poses(kind)
    low, high = arm.joint_range()
    assert len(states) == len(sensors) == N_STARTS
    data = mujoco.MjData(model)
    for state, sensor in zip(states[::8], sensors[::8], strict=True):
        mujoco.mj_setState(model, data, state, FULL)
        mujoco.mj_forward(model, data)
        assert data.ncon == 0
        assert not data.qvel.any()
        np.testing.assert_allclose(sensor, data.sensordata, atol=1e-12)
    assert (sensors[:, :6] >= low).all() and (sensors[:, :6] <= high).all()
    assert sensors[:, 14].min() >= 0.03
    span = np.ptp(sensors[:, :6], axis=0) / (high - low)
    assert (
        (span > 0.95).all()
        if kind == "random"
        else np.abs(sensors[:, :6] - arm.REST_POSE).max() <= 0.05
    )


def test_observe_puts_every_number_in_its_place():
    sensor = np.arange(16.0)[None]
    command = 100 + np.arange(6.0)[None]
    expected = [*range(12), *range(100, 106), 12, 13, 14, 15]
    obs = arm.ArmTask().observe(sensor, command)
    assert obs.dtype == np.float32 and obs.tolist() == [expected]


def test_pressing_and_releasing_the_button_is_rewarded_while_it_is_down():
    env = make_vec("arm-press", 1, 0)
    env.reset()
    place(env, ABOVE)
    lower = np.array([[0.0, -1.0, 0, 0, 0, 0]])
    travel = []
    rewards = []
    successes = []
    for action in [*[lower] * 20, *[0 * lower] * 20, *[-lower] * 25]:
        obs, reward, _, _, infos = env.step(action)
        travel.append(obs[0, arm.BUTTON])
        rewards.append(reward[0])
        successes.append(infos["success"][0])
    down = np.array(travel) > 0.005
    assert not down[0] and down[25:40].all() and not down[-1]
    np.testing.assert_array_equal(rewards, down.astype(float))
    np.testing.assert_array_equal(successes, down)


@pytest.mark.parametrize(
    ("travel", "down"), [(0.0, False), (0.00499, False), (0.00501, True), (0.008, True)]
)
def test_the_press_threshold(travel, down):
    spec = task_spec("arm-press")
    obs = np.zeros((1, 22), np.float32)
    obs[0, 21] = travel
    assert spec.success(obs)[0] == down and spec.reward(obs)[0] == float(down)


@pytest.mark.parametrize("side", arm.TARGETS)
def test_reach_reward_computed_by_hand(side):
    spec = task_spec(f"arm-reach-{side}")
    obs = np.zeros((4, 22), np.float32)
    obs[:, 18:21] = arm.TARGETS[side]
    obs[1, 18] += 0.08
    obs[2, 19] -= 0.019
    obs[3, 20] += 0.021
    np.testing.assert_allclose(
        spec.reward(obs), np.exp([0, -1, -0.019 / 0.08, -0.021 / 0.08]), rtol=1e-5
    )
    assert spec.success(obs).tolist() == [True, False, True, False]


@pytest.mark.parametrize("side", arm.TARGETS)
def test_every_target_can_be_reached_and_held(side):
    qpos, error_m = pose_at(np.array(arm.TARGETS[side]))
    assert error_m < 0.003
    env = make_vec(f"arm-reach-{side}", 1, 0)
    env.reset()
    place(env, qpos)
    for _ in range(100):
        obs, reward, _, _, infos = env.step(np.zeros((1, 6)))
    assert infos["success"][0] and reward[0] > np.exp(-0.02 / 0.08), arm.distance(
        obs, arm.TARGETS[side]
    )


def test_a_chunk_is_what_holding_an_action_commands():
    env = Hold(make_vec("arm", 3, 0), 4)
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    clipped = 0
    action = rng.uniform(-1, 1, (3, 6)).astype(np.float32)
    for k in range(60):
        if k % 20 == 19:
            action = -action
        chunk = env.task_spec.action_map.chunk(obs, action, 4)
        obs, _, _, truncated, infos = env.step(action)
        assert chunk.shape == (3, 4, 6) and not truncated.any()
        np.testing.assert_allclose(infos["path"][:, :, COMMAND], chunk.swapaxes(0, 1), atol=1e-5)
        clipped += int((np.diff(chunk, axis=1) == 0).sum())
    assert clipped > 0  # some commands ran into their limits


def test_the_arm_follows_its_command_and_is_not_faster_than_the_rate_limit():
    env = make_vec("arm", 1, 0)
    obs, _ = env.reset()
    start = obs[0, 0]
    for _ in range(30):
        obs, *_ = env.step(np.array([[1.0, 0, 0, 0, 0, 0]]))
    assert obs[0, 12] == pytest.approx(start + 0.9, abs=1e-5)
    assert 0.6 < obs[0, 0] - start < 0.9
    assert 2.5 < obs[0, 6] < 3.5


def test_observations_of_wild_motion_stay_in_the_space():
    obs, space = wild_motion()
    joints = [*range(21)]
    assert (obs[:, joints] >= space.low[joints]).all() and (
        obs[:, joints] <= space.high[joints]
    ).all()
    assert (np.abs(obs[:, 6:12]).max(axis=0) > 2.0).all()  # it was wild


def test_the_button_stays_in_the_space_too():
    obs, space = wild_motion()
    assert obs[:, 21].max() > 0.005
    assert obs[:, 21].min() >= space.low[21] and obs[:, 21].max() <= space.high[21]


def wild_motion():
    env = make_vec("arm-press", 64, 0)
    rng = np.random.default_rng(0)
    env.reset()
    seen = []
    for k in range(400):
        if k % 20 == 0:
            action = rng.choice([-1, 1], (64, 6))
        seen.append(env.step(action)[0])
    return np.concatenate(seen), env.single_observation_space


def visited_share(positions):
    """Coverage (one decision, one environment) of end-effector positions (n, 3)."""
    counter = task_spec("arm").new_coverage()
    path = np.zeros((len(positions), 1, 22))
    path[:, 0, arm.END_EFFECTOR] = positions
    counter.visit(path[0], path)
    return counter.share()


def test_coverage_counts_reachable_voxels_once():
    reachable = sorted(reachable_voxels())
    inside = (np.array(reachable[:3]) + 0.5) * VOXEL_M
    outside = np.array([[0.0, 0.0, 2.0], [0.0, 0.0, -0.1]])
    positions = np.concatenate([inside, inside + 0.01, outside])
    assert visited_share(positions) == pytest.approx(3 / len(reachable))
    assert visited_share(outside) == 0.0
    assert visited_share((np.array(reachable) + 0.5) * VOXEL_M) == 1.0


def test_random_starts_are_a_real_reach_from_the_button():
    """The button's top stands at (-0.173, 0.100, 0.066); its body's origin 8 mm below."""
    hand = arm.poses("random")[1][:, 12:15]
    assert np.linalg.norm(hand - [-0.173, 0.100, 0.058], axis=1).min() >= arm.FAR_M == 0.25
