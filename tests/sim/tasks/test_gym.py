import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode

from sim.core.registry import make_vec as make_task_vec
from sim.tasks.gym import FlatEnv, GymTask


def make_vec(gym_id, n_envs, seed=0, **options):
    return GymTask(gym_id, **options).make_vec(n_envs, seed)


class Toy(gym.Env):
    """Counts steps, ends at the third, and shows every number's place in the flattened vector."""

    action_space = Box(np.array([0.0, -10.0], np.float32), np.array([4.0, 30.0], np.float32))
    observation_space = Dict(
        {
            "achieved_goal": Box(-9, 9, (1,)),
            "zeta": Box(-99, 99, (2, 2)),
            "alpha": Box(-9, 9, (1,)),
            "desired_goal": Box(-9, 9, (1,)),
            "observation": Box(-9, 9, (2,)),
        }
    )

    def obs(self):
        zeta = np.array([[self.k, 61.0], [62.0, 63.0]])
        return {
            "observation": [1, 2],
            "desired_goal": [3],
            "achieved_goal": [4],
            "alpha": [5],
            "zeta": zeta,
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = 0
        return self.obs(), {}

    def step(self, action):
        self.k += 1
        return (
            self.obs(),
            float(action @ [1, 1000]),
            self.k == 3,
            False,
            {"is_success": float(self.k == 3), "x": 1},
        )


@pytest.fixture(scope="module", autouse=True)
def toy_id():
    gym.register("EdpToy-v0", entry_point=Toy)
    yield
    del gym.registry["EdpToy-v0"]


def test_goal_dictionaries_are_flattened_in_the_documented_order():
    obs, _ = FlatEnv(Toy()).reset()
    np.testing.assert_array_equal(obs, [1, 2, 3, 4, 5, 0, 61, 62, 63])
    assert obs.dtype == np.float32
    fields = make_vec("EdpToy-v0", 1).task_spec.obs
    assert [(f.name, f.start, f.stop) for f in fields] == [
        ("observation", 0, 2),
        ("desired_goal", 2, 3),
        ("achieved_goal", 3, 4),
        ("alpha", 4, 5),
        ("zeta", 5, 9),
    ]


def test_actions_are_mapped_to_the_environments_own_range():
    env = make_task_vec("gym:EdpToy-v0", 3)
    env.reset()
    reward = env.step(np.array([[-1, -1], [0, 0.5], [1, 7.0]]))[1]
    np.testing.assert_allclose(reward, [0 - 10_000, 2 + 20_000, 4 + 30_000])
    amap = env.task_spec.action_map
    np.testing.assert_allclose(amap.scale, [2, 20])
    np.testing.assert_allclose(amap.offset, [2, 10])


def test_an_end_gives_the_final_obs_and_the_next_episode_in_one_step():
    env = make_vec("EdpToy-v0", 2)
    env.reset()
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    for k in (1, 2, 3, 1):
        obs, _, terminated, truncated, infos = env.step(np.zeros((2, 2)))
        ended = k == 3
        assert terminated.tolist() == [ended] * 2 and not truncated.any()
        assert (
            infos["final_obs"][:, 5].tolist() == [k, k]
            and obs[:, 5].tolist() == [0 if ended else k] * 2
        )
        assert infos["final_obs"].dtype == np.float32 and infos["_final_obs"].all() == ended
        assert infos["success"].dtype == bool and infos["success"].tolist() == [ended] * 2
        assert "x" not in infos


def test_pendulum_equals_gymnasiums_own():
    env = make_task_vec("gym:Pendulum-v1", 2, seed=5)
    obs, _ = env.reset()
    seeds = [int(s) for s in np.random.SeedSequence(5).generate_state(2)]
    own = [gym.make("Pendulum-v1") for _ in seeds]
    np.testing.assert_allclose(obs, [e.reset(seed=s)[0] for e, s in zip(own, seeds, strict=True)])
    for k in range(1, 201):
        obs, reward, terminated, truncated, infos = env.step(np.full((2, 1), 0.25))
        steps = [e.step(np.array([0.5], np.float32)) for e in own]  # torque in [-2, 2]
        np.testing.assert_allclose(infos["final_obs"], [s[0] for s in steps], rtol=1e-6)
        np.testing.assert_allclose(reward, [s[1] for s in steps], rtol=1e-6)
        assert truncated.all() == (k == 200) and not terminated.any() and "success" not in infos
    assert env.task_spec.episode_steps == 200 and env.task_spec.control_period_s == 0.05
    np.testing.assert_array_equal(
        env.reset(seed=5)[0], make_vec("Pendulum-v1", 2, seed=5).reset()[0]
    )


def test_processes_give_the_same_numbers():
    def run(mode):
        env = make_vec("Pendulum-v1", 2, seed=3, vectorization=mode)
        env.reset()
        try:
            steps = [env.step(np.full((2, 1), 0.3)) for _ in range(202)]  # across an episode's end
            return [(obs, reward, infos["final_obs"]) for obs, reward, _, _, infos in steps]
        finally:
            env.close()

    for a, b in zip(run("sync"), run("async"), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_neighbouring_seeds_share_no_environment():
    first = [make_vec("Pendulum-v1", 3, seed=s).reset()[0] for s in (0, 1)]
    assert not (first[0][:, None] == first[1][None]).all(-1).any()


@pytest.mark.parametrize(
    ("gym_id", "obs_dim", "act_dim", "goal"),
    [("FetchReach-v4", 16, 4, slice(10, 13)), ("PointMaze_UMaze-v3", 8, 2, slice(4, 6))],
)
def test_gymnasium_robotics_is_found_without_an_import(gym_id, obs_dim, act_dim, goal):
    env = make_task_vec("gym:" + gym_id, 2, seed=0)
    obs, _ = env.reset()
    assert obs.shape == (2, obs_dim) and env.single_action_space.shape == (act_dim,)
    raw = env._envs.envs[0].unwrapped
    np.testing.assert_allclose(obs[0, goal], raw.goal, rtol=1e-6)
    infos = env.step(np.zeros((2, act_dim)))[-1]
    assert infos["success"].shape == (2,)
    env.close()


def test_bad_requests_are_refused_with_the_reason():
    with pytest.raises(
        ValueError,
        match=r"unknown Gymnasium environment 'FetchReech-v4'; near it are FetchReach-v4",
    ):
        make_task_vec("gym:FetchReech-v4", 1)
    with pytest.raises(ValueError, match=r"Discrete\(2\): its actions are categories"):
        make_vec("CartPole-v1", 1)
    with pytest.raises(ValueError, match=r"could not make 'Pendulum-v1'.*nonsense"):
        make_vec("Pendulum-v1", 1, nonsense=3)
    with pytest.raises(ValueError, match=r"'threads'; there are sync, async"):
        make_vec("Pendulum-v1", 1, vectorization="threads")
    env = make_vec("Pendulum-v1", 2)
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(2, 1\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.full((2, 1), np.nan))
