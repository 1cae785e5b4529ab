"""The action map has three forms: NumPy, torch (`Deployed`), ONNX (`surgery`). They are equal."""

import numpy as np
import onnx
import pytest
import torch
from support.foreign import linear, written

from edp_robot.deploy.export import onnx_session
from edp_robot.deploy.policies import Deployed
from edp_robot.deploy.wrap.command_map import CommandMap
from edp_robot.deploy.wrap.surgery import wrapped_graph
from sim.core.action_map import ActionMap

HORIZON = 4
MAPS = {
    "absolute": ActionMap("absolute", (0.5, 2.0), (0.1, -0.3), (-0.2, -1.5), (0.5, 1.5)),
    "increment": ActionMap("increment", (0.05, 0.4), (0.0, 0.0), (-1.0, -1.0), (1.0, 1.0), 1),
    "without-limits": ActionMap("absolute", (1.0, 1.0), (0.0, 0.0), (-np.inf,) * 2, (np.inf,) * 2),
}
EDGE = np.array([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0], [1.0, 1.0]], np.float32)


@pytest.fixture
def obs():
    """Random obs (a, command 0, command 1), and commands at their limits."""
    drawn = np.random.default_rng(0).uniform(-1, 1, (60, 3))
    drawn[:4, 1:] = [[1.0, -1.0], [-1.0, 1.0], [0.98, 0.0], [0.0, -0.98]]
    return drawn.astype(np.float32)


@pytest.fixture
def actions(obs):
    """Random actions (n, HORIZON, 2) in [-1, 1], and the corners of the box."""
    drawn = np.random.default_rng(1).uniform(-1, 1, (len(obs), HORIZON, 2))
    drawn[:4] = EDGE[:, None]
    return drawn.astype(np.float32)


def by_numpy(amap, obs, actions):
    """The commands of a chunk of actions, of which each may differ."""
    return np.clip(amap.unlimited(obs, actions), amap.low, amap.high)


def by_torch(amap, obs, action):
    """The commands of one action (n, 2) that is held."""

    class Answer(torch.nn.Module):
        def forward(self, obs, noise):
            return torch.from_numpy(action)

    deployed = Deployed(Answer(), amap, HORIZON)
    return deployed(torch.from_numpy(obs), torch.zeros(len(obs), 1)).numpy()


def by_onnx(amap, obs, answers, path, normalised=False):
    """The commands of answers (n, HORIZON, 2), which pass through the graph as its noise."""
    shape = (-1, HORIZON, 2)
    weights = np.zeros((3, HORIZON * 2), np.float32)  # only the noise counts
    foreign = written(linear(weights=weights, shape=shape, noise="noise"), path / "p.onnx")
    graph = wrapped_graph(foreign, CommandMap(amap, normalised))
    onnx.checker.check_model(onnx.load_model_from_string(graph), full_check=True)
    feeds = {"obs": obs, "noise": answers.reshape(len(obs), -1)}
    return onnx_session(graph).run(["action"], feeds)[0]


@pytest.mark.parametrize("name", MAPS)
def test_a_held_action_is_the_same_in_all_three_forms(name, obs, actions, tmp_path):
    amap = MAPS[name]
    action = actions[:, 0]
    expected = amap.chunk(obs, action, HORIZON)
    held = np.repeat(action[:, None], HORIZON, axis=1)
    np.testing.assert_allclose(by_torch(amap, obs, action), expected, atol=2e-6)
    np.testing.assert_allclose(by_onnx(amap, obs, held, tmp_path), expected, atol=2e-6)
    np.testing.assert_allclose(by_numpy(amap, obs, held), expected, atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_a_chunk_of_different_actions_is_the_same_in_numpy_and_onnx(name, obs, actions, tmp_path):
    amap = MAPS[name]
    expected = by_numpy(amap, obs, actions)
    np.testing.assert_allclose(by_onnx(amap, obs, actions, tmp_path), expected, atol=2e-6)


@pytest.mark.parametrize("name", MAPS)
def test_a_held_action_is_what_an_environment_does_step_by_step(name, obs, actions):
    amap = MAPS[name]
    command = obs[:, 1:].astype(np.float64)
    steps = []
    for _ in range(HORIZON):
        command = amap.command(command, actions[:, 0])
        steps.append(command)
    np.testing.assert_allclose(np.stack(steps, 1), amap.chunk(obs, actions[:, 0], HORIZON))


@pytest.mark.parametrize("name", ["absolute", "increment"])
def test_the_inputs_reach_the_limits_and_the_inside(name, obs, actions):
    amap = MAPS[name]
    commands = amap.chunk(obs, actions[:, 0], HORIZON)
    assert (commands == np.array(amap.low)).any()
    assert (commands == np.array(amap.high)).any()
    assert ((commands > amap.low) & (commands < amap.high)).any()


def test_answers_outside_the_box_are_clipped_only_where_they_are_normalised(obs, tmp_path):
    amap = MAPS["increment"]
    answers = np.full((len(obs), HORIZON, 2), 3.0, np.float32)
    free = by_onnx(amap, obs, answers, tmp_path)
    np.testing.assert_allclose(free, by_numpy(amap, obs, answers), atol=2e-6)
    clipped = by_onnx(amap, obs, answers, tmp_path, normalised=True)
    np.testing.assert_allclose(clipped, by_numpy(amap, obs, np.ones_like(answers)), atol=2e-6)
    commands = CommandMap(amap, normalised=True)
    expected = amap.unlimited(obs, np.ones_like(answers))
    np.testing.assert_allclose(commands.unlimited(obs, answers), expected, atol=2e-7)
