import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from sim.core.registry import make_vec
from sim.tasks.mazes import Maze, MazeTask, task_names

REFERENCE = np.load(Path(__file__).parents[2] / "data" / "maze_reference.npz")
NAMES = [
    "square_a",
    "square_b",
    "square_c",
    "square_d",
    "square_tree",
    "square_bottleneck",
    "square_large",
]


@pytest.mark.parametrize("part", ["recorded", "fixed"])
@pytest.mark.parametrize("name", NAMES)
def test_every_reference_transition_is_matched(name, part):
    state, action, u, expected = (
        REFERENCE[f"{name}__{part}__{key}"]
        for key in ("state", "action", "repulsion_u", "next_state")
    )
    assert len(state) == 2000
    assert np.abs(Maze.load(name).step(state, action, u) - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("state", "action", "expected"),
    [
        ((0.0, 0.0), (0.1, -0.3), (0.1, -0.3)),  # nothing near
        ((0.0, 0.0), (0.0, -1.0), (0.0, -1.0)),  # through an open side
        ((0.0, 0.0), (1.0, 0.0), (0.498, 0.0)),  # straight into the right wall: back by 0.01 * 0.2
        ((0.0, 0.0), (1.0, -0.4), (0.498, -0.4)),  # and slides along it
        (
            (0.0, 0.0),
            (1.0, 0.8),
            (0.498, 0.492),
        ),  # right wall, then the upper one: back by 0.01 * 0.8
        ((0.4, -0.2), (0.2, -1.0), (0.498, -1.2)),  # the wall that counts is the next cell's
        (
            (0.0, 0.0),
            (1.0, 1.0),
            (0.498, 0.492),
        ),  # exactly into a corner: `right` comes before `up`
        ((0.0, -4.0), (-1.0, -1.0), (-0.492, -4.498)),  # but `down` before `left`
        ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),  # no move
    ],
)
def test_moves_computed_by_hand(state, action, expected):
    got = Maze.load("square_a").step(
        np.array([state]), np.array([action]), np.array([[0.2, 0.8, 0.5]])
    )
    np.testing.assert_allclose(got, [expected], atol=1e-12)


def test_a_point_never_leaves_the_free_cells():
    maze = Maze.load("maze-square-tree")
    rng = np.random.default_rng(3)
    at = maze.sample_start(rng, 300)
    for _ in range(100):
        at = maze.step(at, rng.uniform(-1, 1, (300, 2)), 1 - rng.random((300, 3)))
    cells = {tuple(cell) for cell in np.round(at)}
    assert cells <= {tuple(cell) for cell in free_cells(maze)}
    assert len(cells) > 10


def free_cells(maze):
    data = json.loads(resources.files("sim").joinpath("assets/mazes.json").read_text())
    return data[maze.name]["reachable_cells"]


def test_starts_keep_their_distance_from_walls_only():
    start = Maze.load("square_a").sample_start(np.random.default_rng(0), 4000)
    assert (
        start[:, 0].min() > -0.45 and start[:, 0].max() < 0.45 and start[:, 1].max() < 0.45
    )  # three walled sides
    assert start[:, 1].min() < -0.49  # the fourth is open


def test_coverage_counts_bins_by_hand():
    maze = Maze.load("square_a")  # bins of 0.05, 17 free cells: 17 / 0.05^2 = 6800 bins
    assert maze.coverage(np.array([[0.02, 0.02], [0.03, 0.04], [0.07, 0.02]])) == pytest.approx(
        2 / 6800
    )
    assert maze.coverage(np.array([[4.5, 0.5], [4.46, 0.46]])) == pytest.approx(
        1 / 6800
    )  # the edge is in the last bin
    centres = np.stack(np.meshgrid(*[np.arange(-0.5, 0.5, 0.05) + 0.025] * 2), -1).reshape(-1, 2)
    assert maze.coverage(centres) == pytest.approx(1 / 17)  # one whole cell


def test_coverage_of_everything_reachable_is_the_cap():
    centres = np.stack(np.meshgrid(*[np.arange(-0.5, 0.5, 0.05) + 0.025] * 2), -1).reshape(-1, 2)
    for name, cap in (("square_a", 1.0), ("square_d", 0.7857142857), ("square_large", 1.0)):
        maze = Maze.load(name)
        points = np.concatenate([centres + cell for cell in np.array(free_cells(maze))])
        assert maze.coverage(points) == pytest.approx(cap) == pytest.approx(maze.max_coverage)


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [("a", 0.75, 0.05), ("bottleneck", 0.35, 0.03), ("large", 0.38, 0.03)],
)
def test_random_actions_cover_what_was_measured(name, published, tolerance):
    """100k env_steps of uniform actions: 51 observations of 2000 episodes (method section 5)."""
    env = MazeTask(f"maze-square-{name}").make_vec(2000, 1)
    seen = [env.reset()[0]]
    for _ in range(50):
        *_, infos = env.step(env.rng.uniform(-1, 1, (2000, 2)))
        seen.append(infos["final_obs"])
    assert env.maze.coverage(np.concatenate(seen)) == pytest.approx(published, abs=tolerance)


def test_the_environment_keeps_the_contract():
    env = MazeTask("square_b").make_vec(5, 0)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, _ = env.reset()
    assert obs.shape == (5, 2) and obs.dtype == np.float32 and env.observation_space.contains(obs)
    for k in range(1, 51):
        before = env.position.copy()
        obs, reward, terminated, truncated, infos = env.step(np.full((5, 2), [0.01, -0.02]))
        assert not terminated.any() and truncated.all() == (k == 50) and not reward.any()
        assert infos["final_obs"].dtype == np.float32 and infos["final_obs"].shape == (5, 2)
        if k == 1:
            np.testing.assert_allclose(infos["final_obs"], np.add(before, [0.01, -0.02]), atol=0.02)
            np.testing.assert_array_equal(infos["final_obs"], obs)
    assert (np.abs(obs) < 0.5).all()  # already the next episode, in the start cell
    assert (infos["final_obs"][:, 1] < -0.5).all()  # the old one had left it
    assert (env.episode_step == 0).all() and infos["_final_obs"].all()


def rollout(env, n):
    rng = np.random.default_rng(9)
    return np.concatenate([env.step(rng.uniform(-1, 1, (env.num_envs, 2)))[0] for _ in range(n)])


def test_seed_and_saved_state_repeat_the_same_numbers():
    env = MazeTask("square_large").make_vec(7, 4)
    first = env.reset()[0]
    rollout(env, 30)
    saved = env.get_state()
    expected = rollout(env, 40)  # across an episode's end
    other = MazeTask("square_large").make_vec(7, 0)
    other.set_state(saved)
    np.testing.assert_array_equal(rollout(other, 40), expected)
    np.testing.assert_array_equal(env.reset(seed=4)[0], first)
    assert not np.array_equal(env.reset(seed=5)[0], first)
    with pytest.raises(ValueError, match="7 simulations, this environment 3"):
        MazeTask("square_large").make_vec(3, 0).set_state(saved)


def test_bad_input_is_refused_with_the_reason():
    maze = Maze.load("square_a")
    env = MazeTask("square_a").make_vec(2, 0)
    with pytest.raises(ValueError, match=r"unknown maze 'maze-square-z'.*maze-square-bottleneck"):
        Maze.load("maze-square-z")
    with pytest.raises(ValueError, match=r"repulsion_u has shape \(2, 2\), expected \(2, 3\)"):
        maze.step(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="not finite"):
        maze.step(np.full((1, 2), np.nan), np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        maze.coverage(np.zeros(3))
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros((2, 2)))
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(2, 2\)"):
        env.step(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"not finite in rows \[1\]"):
        env.step(np.array([[0, 0], [0, np.inf]]))
    with pytest.raises(ValueError, match="n_envs must be a positive integer, got 0"):
        MazeTask("square_a").make_vec(0, 0)
    assert len(task_names()) == 7 and make_vec("maze-square-d", 1).task_spec.name in task_names()
