"""Spaces as vectors: order, form, and the actions that an environment gets."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from sim.tasks.gym import FlatEnv


class Fixed(gym.Env):
    """Shows one observation, and keeps the last action."""

    def __init__(self, obs, shown, action=None):
        self.observation_space = obs
        self.action_space = Box(-1, 1, (1,)) if action is None else action
        self.shown = shown

    def reset(self, *, seed=None, options=None):
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.got = action
        return self.shown, 0.0, False, False, {}


NESTED = Dict({"b": Discrete(3, start=1), "a": Box(0, 255, (2, 2), np.uint8)})


@pytest.mark.parametrize(
    ("space", "shown", "flat", "names"),
    [
        (Discrete(3), 2, [0, 0, 1], ["observation"]),
        (Discrete(3, start=-1), np.int64(-1), [1, 0, 0], ["observation"]),
        (MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0], ["observation"]),
        (MultiBinary((2, 2)), np.array([[1, 0], [0, 1]], np.int8), [1, 0, 0, 1], ["observation"]),
        (Box(-9, 9, (2, 1), np.int64), np.array([[3], [-4]]), [3, -4], ["observation"]),
        (Box(0, 1, (), np.float64), np.float64(0.5), [0.5], ["observation"]),
        (Tuple((Discrete(2), Box(0, 9))), (1, [7.0]), [0, 1, 7], ["0", "1"]),
        (
            Tuple((Box(0, 9), NESTED)),
            ([7.0], {"b": 3, "a": np.uint8([[1, 2], [3, 4]])}),
            [7, 1, 2, 3, 4, 0, 0, 1],
            ["0", "1/a", "1/b"],
        ),
    ],
)
def test_observations_are_flattened_in_the_documented_form(space, shown, flat, names):
    env = FlatEnv(Fixed(space, shown))
    obs, _ = env.reset()
    assert obs.tolist() == flat and obs.dtype == np.float32
    assert env.observation_space.contains(obs)
    spec = env.task_spec()
    assert [field.name for field in spec.obs] == names and spec.obs_dim == len(flat)


@pytest.mark.parametrize(
    ("action", "given", "expected"),
    [
        (Box(0, 5, (3,), np.int64), [1.6, 4.5000001, 4.99], [2, 5, 5]),
        (Box(-5, 5, (3,), np.int8), [-1.6, -0.4, -7.0], [-2, 0, -5]),
        (Box(0, 255, (2,), np.uint8), [254.6, 300.0], [255, 255]),
        (Box(-2, 2, (2, 1), np.float64), [0.1, 3.0], [[0.1], [2.0]]),
    ],
)
def test_an_action_is_rounded_and_inside_its_limits(action, given, expected):
    env = FlatEnv(Fixed(Box(0, 1), [0.0], action))
    env.step(np.array(given))
    got = env.unwrapped.got
    assert got.tolist() == expected and got.dtype == action.dtype


def test_an_action_of_several_parts_gets_its_structure_back():
    action = Dict({"turn": Box(0, 5, (1,), np.int64), "arm": Tuple((Box(-2, 2, (2, 1)),))})
    env = FlatEnv(Fixed(Box(0, 1), [0.0], action))
    env.step(np.array([0.5, -0.25, 2.6]))
    assert env.unwrapped.got["arm"][0].tolist() == [[0.5], [-0.25]]
    assert env.unwrapped.got["turn"].tolist() == [3]
    assert [field.name for field in env.task_spec().action] == ["arm/0", "turn"]


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (Discrete(3), r"action space is Discrete\(3\): its actions are categories.*continuous"),
        (MultiDiscrete([2, 2]), "actions are categories"),
        (MultiBinary(2), "actions are categories"),
        (Tuple((Box(0, 1), Discrete(2))), r"action/1 space is Discrete\(2\): its actions are cat"),
        (Text(3), "only a Box, and Dict and Tuple of them, can be driven"),
        (Box(-np.inf, np.inf, (1,)), "finite low and high"),
        (Box(0, np.inf, (1,)), "finite low and high"),
        (Box(-3e38, 3e38, (1,)), "finite low and high"),
        (Box(-np.inf, np.inf, (1,), np.int64), "finite low and high"),
        (Box(1, 1, (1,)), "low must be below high"),
        (Box(0, 1, (0,)), "holds no number"),
    ],
)
def test_actions_that_cannot_be_driven_are_refused(action, problem):
    with pytest.raises(ValueError, match=problem) as refused:
        FlatEnv(Fixed(Box(0, 1), [0.0], action))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        (Dict({"a": Box(0, 1), "b": Text(3)}), "observation/b space is Text.*fixed length"),
        (Discrete(2**31), "one-hot it has 2147483648 numbers"),
        (Tuple(()), "holds no number"),
    ],
)
def test_observations_that_are_no_vectors_are_refused(space, problem):
    with pytest.raises(ValueError, match=problem):
        FlatEnv(Fixed(space, None))
