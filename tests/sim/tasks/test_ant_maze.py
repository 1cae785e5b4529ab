import tempfile

import gymnasium as gym
import gymnasium_robotics
import mujoco
import numpy as np
import pytest

from sim.core.registry import make_task, make_vec
from sim.tasks.ant_maze import ANT_MAZES, AntMaze
from sim.tasks.gym import GymTask

FORCES = np.s_[27:105]
GYM_IDS = {
    "ant-maze-umaze": "AntMaze_UMaze-v5",
    "ant-maze-medium": "AntMaze_Medium-v5",
    "ant-maze-large": "AntMaze_Large-v5",
    "ant-maze-open-diverse-g": "AntMaze_Open_Diverse_G-v5",
    "ant-maze-medium-diverse-g": "AntMaze_Medium_Diverse_G-v5",
    "ant-maze-large-diverse-g": "AntMaze_Large_Diverse_G-v5",
}


@pytest.fixture(autouse=True)
def written(tmp_path, monkeypatch):
    """Where gymnasium-robotics writes each maze, beside its temporary directory, and leaves it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def task():
    return make_task("ant-maze-umaze")


@pytest.fixture
def theirs():
    gym.register_envs(gymnasium_robotics)
    env = gym.make("AntMaze_UMaze-v5")
    yield env
    env.close()


def flat(obs):
    return np.concatenate([obs[part] for part in ("observation", "desired_goal", "achieved_goal")])


def state_of(env):
    """Returns the state of gymnasium-robotics' environment as ours writes it: time, qpos, qvel."""
    ant = env.unwrapped.data
    return np.concatenate([[0], ant.qpos, env.unwrapped.goal, ant.qvel, np.zeros(2)])


def forces_at_the_end(env):
    """Returns gymnasium's contact forces (78,) of the state as it is now."""
    model = env.unwrapped.model
    data = mujoco.MjData(model)
    data.qpos[:] = env.unwrapped.data.qpos
    data.qvel[:] = env.unwrapped.data.qvel
    data.ctrl[:] = env.unwrapped.data.ctrl
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    return np.clip(data.cfrc_ext[1:], -1, 1).ravel()


def test_a_trajectory_is_gymnasium_robotics_own(task, theirs):
    """60 control steps from one state: the ant falls onto its feet and walks; the goal stays."""
    first, _ = theirs.reset(seed=0)
    ours = task.make_vec(1, 0)
    ours.reset()
    ours._state[0] = state_of(theirs)
    rng = np.random.default_rng(0)
    touched = 0
    for _ in range(60):
        action = rng.uniform(-1, 1, (1, 8))
        expected, pays, *_, info = theirs.step(action[0])
        obs, reward, terminated, _, infos = ours.step(action)
        np.testing.assert_allclose(
            np.delete(obs[0], FORCES), np.delete(flat(expected), FORCES), atol=1e-5
        )
        forces = forces_at_the_end(theirs)
        np.testing.assert_allclose(obs[0, FORCES], forces, atol=1e-3)
        assert (reward[0], infos["success"][0], terminated[0]) == (pays, info["success"], False)
        touched += forces.any()
    assert touched > 10 and len(flat(first)) == 109


@pytest.mark.parametrize("name", list(ANT_MAZES))
def test_the_world_is_gymnasium_robotics_own(name):
    """The ant's joints, the walls, and the number of steps; the goal's body comes last."""
    task = make_task(name)
    gym.register_envs(gymnasium_robotics)
    env = gym.make(GYM_IDS[name])
    model = env.unwrapped.model
    for part in ("geom_pos", "geom_size", "geom_friction", "geom_margin", "dof_armature"):
        expected = getattr(model, part)
        np.testing.assert_array_equal(getattr(task.model, part)[: len(expected)], expected)
    assert task.model.ngeom == model.ngeom
    assert task.spec.episode_steps == gym.spec(GYM_IDS[name]).max_episode_steps
    assert (task.spec.obs_dim, task.spec.act_dim) == (109, 8)
    env.close()


def test_goals_and_starts_lie_apart_on_the_floor(task):
    states, _ = task.starts
    start = states[:, 1:3]
    goal = states[:, 16:18]
    free = ((-4, 4), (0, 4), (4, 4), (4, 0), (-4, -4), (0, -4), (4, -4))  # cells' middles
    for points in (start, goal):
        apart = np.abs(points[:, None] - np.array(free)).max(2)
        assert (apart.min(1) <= 1).all() and len(np.unique(apart.argmin(1))) == 7
    assert np.linalg.norm(start - goal, axis=1).min() > 2 - np.sqrt(2)


def test_a_diverse_maze_starts_in_one_cell():
    states, _ = make_task("ant-maze-medium-diverse-g").starts
    assert (np.abs(states[:, 1:3] - (-10, 10)) <= 1).all()
    goals = np.round(states[:, 16:18])
    assert {(10, 6), (-10, -6), (6, -10)} == {tuple(4 * np.round((g - 2) / 4) + 2) for g in goals}


def test_within_45_cm_is_success(task):
    obs = np.zeros((3, 109), np.float32)
    obs[:, 107] = (0.0, 0.449, 0.451)
    assert task.success(obs).tolist() == [True, True, False]
    assert task.reward(obs).tolist() == [1.0, 1.0, 0.0]


def test_the_pose_follows_from_the_obs(task):
    env = task.make_vec(3, 0)
    env.reset()
    obs, *_ = env.step(np.ones((3, 8)))
    np.testing.assert_allclose(task.qpos(obs), env._state[:, 1:18], atol=1e-6)


def test_coverage_counts_squares_of_the_floor(task):
    """The U has 7 cells of 16 squares. Each joint has five bins."""
    coverage = task.new_coverage()
    obs = np.zeros((2, 109), np.float32)
    obs[:, 107:109] = [[-5.5, 4.5], [-5.4, 4.4]]
    path = obs[None].copy()
    path[0, 1, 107] = 5.5
    coverage.visit(obs, path)
    assert coverage.measures() == {"coverage_place": 2 / 112, "coverage_joints": 1 / 5**8}


def test_no_file_stays_behind(written):
    assert AntMaze("u", "U_MAZE", 10).model.nu == 8
    assert GymTask("AntMaze_UMaze-v5").make_vec(1, 0).task_spec.obs_dim == 109
    assert GymTask("PointMaze_UMaze-v3").spec.obs_dim == 8
    assert not list(written.iterdir())
    gym.make("PointMaze_UMaze-v3").close()
    assert len(list(written.iterdir())) == 1  # it would


def test_many_run_at_once():
    env = make_vec("ant-maze-umaze", 9, 0)
    obs, _ = env.reset()
    assert len(np.unique(obs[:, 105])) == 9  # a goal each
    np.testing.assert_array_equal(env.step(np.zeros((9, 8)))[0][:, 105:107], obs[:, 105:107])
