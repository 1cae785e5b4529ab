import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from sim.core import batch
from sim.core.action_map import ActionMap
from sim.core.hold import Hold
from sim.core.registry import make_vec, task_names, task_spec
from sim.core.spec import Part, TaskSpec, tile
from sim.core.vec import SameStepVectorEnv
from sim.tasks import arm

N_SUBSTEPS = 5
FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS


def drive(env, seed, n_steps):
    """Observations (n_steps, n, obs_dim) and rewards under random actions of `seed`."""
    rng = np.random.default_rng(seed)
    obs = []
    rewards = []
    for _ in range(n_steps):
        o, r, *_ = env.step(rng.uniform(-1, 1, (env.num_envs, 6)))
        obs.append(o)
        rewards.append(r)
    return np.array(obs), np.array(rewards)


def test_shapes_types_and_mode():
    env = make_vec("arm-press", 3, 0)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, infos = env.reset(seed=1)
    assert obs.shape == (3, 22) and obs.dtype == np.float32 and infos == {}
    obs, reward, terminated, truncated, infos = env.step(np.zeros((3, 6)))
    assert (
        obs.shape == infos["final_obs"].shape == (3, 22)
        and obs.dtype == infos["final_obs"].dtype == np.float32
    )
    assert reward.shape == (3,) and reward.dtype == np.float64
    assert (
        terminated.dtype
        == truncated.dtype
        == infos["success"].dtype
        == infos["_final_obs"].dtype
        == bool
    )


def test_an_ended_episode_starts_again_in_the_same_step():
    env = make_vec("arm-press", 3, 0)
    env.reset()
    drive(env, 0, 10)
    env.set_state(env.get_state() | {"episode_step": np.array([0, 199, 0])})
    before = env.get_state()
    obs, _, terminated, truncated, infos = env.step(np.full((3, 6), 0.5))
    assert (
        truncated.tolist() == infos["_final_obs"].tolist() == [False, True, False]
        and not terminated.any()
    )
    np.testing.assert_array_equal(infos["final_obs"][[0, 2]], obs[[0, 2]])
    assert (
        not obs[1, 6:12].any() and infos["final_obs"][1, 6:12].any()
    )  # a start is at rest, an end was moving
    np.testing.assert_array_equal(obs[1, :6], obs[1, 12:18])  # and commanded to stay
    assert np.abs(arm.poses("random")[1][:, :6] - obs[1, :6]).max(axis=1).min() < 1e-6
    assert env.episode_step.tolist() == [1, 0, 1]
    twin = make_vec("arm-press", 3, 0)
    twin.set_state(before | {"episode_step": np.zeros(3)})
    np.testing.assert_array_equal(
        twin.step(np.full((3, 6), 0.5))[0], infos["final_obs"]
    )  # no reset, same step


def test_the_same_seed_gives_the_same_numbers():
    a, b, c = (make_vec("arm", 9, seed) for seed in (5, 5, 6))
    starts = [env.reset()[0] for env in (a, b, c)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert (starts[0] != starts[2]).any(axis=1).all()
    runs = [drive(env, 0, 20)[0] for env in (a, b)]
    np.testing.assert_array_equal(*runs)
    np.testing.assert_array_equal(a.reset(seed=5)[0], starts[0])


@pytest.mark.parametrize("n_envs", [2, 9])  # without and with threads
def test_a_saved_state_goes_on_exactly_through_resets(n_envs):
    env = make_vec("arm-press", n_envs, 3)
    env.reset()
    drive(env, 0, 150)
    saved = env.get_state()
    expected = drive(env, 1, 80)
    other = make_vec("arm-press", n_envs, 99)
    drive_first = other.reset()[0]
    other.set_state(saved)
    got = drive(other, 1, 80)
    assert (drive_first != expected[0][0]).any()
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_a_saved_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match="2 simulations, this environment 3"):
        make_vec("arm", 3, 0).set_state(make_vec("arm", 2, 0).get_state())


@pytest.mark.parametrize("n_envs", [2, 9])
def test_the_batch_steps_as_mujoco_does_one_by_one(n_envs):
    env = make_vec("arm-press", n_envs, 0)
    rng = np.random.default_rng(2)
    env.reset()
    model = env.model
    data = mujoco.MjData(env.model)
    start = env.get_state()
    state = start["state"].copy()
    command = start["command"].copy()
    for _ in range(30):
        action = rng.uniform(-1, 1, (n_envs, 6))
        command = np.clip(command + 0.03 * action, *arm.joint_range())
        sensor = np.empty((n_envs, 16))
        for i in range(n_envs):
            mujoco.mj_resetData(model, data)  # a rollout starts without the last forces
            mujoco.mj_setState(model, data, state[i], FULL)
            data.ctrl[:] = command[i]
            for _ in range(N_SUBSTEPS):
                mujoco.mj_step(model, data)
            sensor[i] = data.sensordata
            mujoco.mj_getState(model, data, state[i], FULL)
        obs = env.step(action)[0]
        np.testing.assert_allclose(obs, arm.ArmTask().observe(sensor, command), atol=1e-6)
    np.testing.assert_allclose(env.get_state()["state"], state, atol=1e-9)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((2, 5)), r"\(2, 5\), expected \(2, 6\)"),
        (np.array([[0.0] * 6, [np.nan] * 6]), r"not finite in rows \[1\]"),
    ],
)
def test_bad_actions_are_refused(action, message):
    env = make_vec("arm", 2, 0)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(action)


def test_a_step_before_reset_is_refused():
    with pytest.raises(RuntimeError, match="reset"):
        make_vec("arm", 1, 0).step(np.zeros((1, 6)))


class Script(SameStepVectorEnv):
    """Two simulations. Rewards of env_step k are k and 10 k. They succeed at k = 2 and k = 4."""

    def __init__(self, success_when):
        spec = TaskSpec(
            "script",
            obs=tile(Part("k", "", -99, 99)),
            action=tile(Part("a", "", -1, 1)),
            action_map=ActionMap.spread([-1.0], [1.0]),
            control_period_s=0.1,
            episode_steps=8,
            success_when=success_when,
        )
        super().__init__(spec, 2)
        self.k = np.zeros(2)

    def _start(self, rows):
        self.k[rows] = 0

    def _observe(self):
        return self.k[:, None]

    def _advance(self, command):
        self.k = self.k + 1
        return self.k * [1, 10], np.zeros(2, bool), {"success": self.k == [2, 4]}


@pytest.mark.parametrize(("when", "first"), [("any", [True, True]), ("end", [False, True])])
def test_hold_averages_rewards_and_joins_successes(when, first):
    env = Hold(Script(when), 4)
    env.reset()
    obs, reward, _, truncated, infos = env.step(np.zeros((2, 1)))
    assert (
        reward.tolist() == [2.5, 25.0]
        and infos["success"].tolist() == first
        and not truncated.any()
    )
    assert infos["path"].shape == (4, 2, 1) and infos["path"][:, 0, 0].tolist() == [1, 2, 3, 4]
    obs, reward, _, truncated, infos = env.step(np.zeros((2, 1)))
    assert reward.tolist() == [6.5, 65.0] and infos["success"].tolist() == [False, False]
    assert (
        truncated.all()
        and obs[0, 0] == 0
        and infos["path"][-1, 0, 0] == infos["final_obs"][0, 0] == 8
    )


class Explored(Script):
    """It also gives 10 k and the number of the simulation."""

    def _advance(self, command):
        reward, _, infos = super()._advance(command)
        infos["explored"] = np.stack([10 * self.k, [0, 1]], axis=1)
        return reward, self.k == [3, 99], infos


def test_a_hold_stacks_what_is_explored_along_its_path():
    env = Hold(Explored("any"), 4)
    env.reset()
    first = env.step(np.zeros((2, 1)))[-1]["explored"]
    assert first.shape == (4, 2, 2) and first[0, :, 1].tolist() == [0, 1]
    assert first[:, :, 0].T.tolist() == [[10, 20, 30, 30], [10, 20, 30, 40]]  # the first has ended
    second = env.step(np.zeros((2, 1)))[-1]["explored"]
    assert second[:, :, 0].T.tolist() == [[10, 20, 30, 30], [50, 60, 70, 80]]


class Ending(Script):
    """Episodes of the first simulation terminate at k = 3, those of the second never."""

    def _advance(self, command):
        reward, _, infos = super()._advance(command)
        return reward, self.k == [3, 99], infos


def test_a_decision_ends_where_its_episode_ends_and_the_others_go_on():
    env = Hold(Ending("any"), 4)
    env.reset()
    obs, reward, terminated, truncated, infos = env.step(np.zeros((2, 1)))
    assert terminated.tolist() == infos["_final_obs"].tolist() == [True, False]
    assert infos["n_control_steps"].tolist() == [3, 4]
    assert reward.tolist() == [1.5, 25.0] and not truncated.any()  # 6 / 4 and 100 / 4
    assert infos["reward_sum"].tolist() == [6, 100]
    assert infos["final_obs"][:, 0].tolist() == [3, 4]
    assert obs[:, 0].tolist() == [0, 4]  # the first waits at the start of its next episode
    assert infos["path"][:, 0, 0].tolist() == [1, 2, 3, 3]
    obs, *_, infos = env.step(np.zeros((2, 1)))
    assert infos["path"][:, :, 0].T.tolist() == [[1, 2, 3, 3], [5, 6, 7, 8]]
    assert env.unwrapped.episode_step.tolist() == [0, 0]


def test_a_truncation_within_a_hold_is_not_lost():
    env = Hold(Ending("any"), 4)
    env.reset()
    env.unwrapped.episode_step[1] = 6
    _, reward, _, truncated, infos = env.step(np.zeros((2, 1)))
    assert truncated.tolist() == [False, True] and infos["n_control_steps"].tolist() == [3, 2]
    assert infos["reward_sum"].tolist() == [6, 30] and reward.tolist() == [1.5, 7.5]
    assert infos["success"].tolist() == [True, False]
    assert len(infos["path"]) == 3  # both have ended


def test_the_registry_makes_every_arm_task_and_names_them_all():
    names = task_names()
    assert {"arm", "arm-press", "arm-reach-left", "arm-reach-low", "maze-square-a"} <= set(names)
    for name in arm.ARM_TASKS:
        assert make_vec(name, 2, 0).task_spec.name == task_spec(name).name == name


def test_an_unknown_task_gets_the_list_and_the_closest():
    with pytest.raises(ValueError, match="Did you mean 'arm-press'") as caught:
        make_vec("arm-pres")
    assert all(name in str(caught.value) for name in task_names() if "<" not in name)


@pytest.mark.parametrize(
    ("given", "n_threads"),
    [("1", 1), ("3", 3), ("2,1", 2), ("0", 5), ("", 5), ("many", 5), ("-1", 5)],
)
def test_the_environment_bounds_the_threads(monkeypatch, given, n_threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(batch.os, "cpu_count", lambda: 5)
    assert batch.allowed_threads() == n_threads


def test_two_threads_step_as_one_does(monkeypatch):
    seen = []
    for n_threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
        env = make_vec("arm", 9, seed=3)
        env.reset(seed=3)
        rng = np.random.default_rng(0)
        seen.append([env.step(rng.uniform(-1, 1, (9, 6)))[0].copy() for _ in range(5)])
        env.close()
    np.testing.assert_array_equal(*seen)
