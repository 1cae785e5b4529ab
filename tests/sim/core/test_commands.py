"""Commands in physical units are played as they are, one each control step."""

import numpy as np
import pytest

from sim.core.evaluate import evaluate, evaluate_commands
from sim.core.hold import Hold
from sim.core.registry import make_vec, task_spec
from sim.robots.robot_process import RobotCore
from sim.tasks.arm import PressTask

COMMAND = slice(12, 18)
TASKS = ["arm-press", "maze-square-a", "modes", "gym:Pendulum-v1", "gym:FetchReach-v4"]


@pytest.mark.parametrize("task", TASKS)
def test_an_action_is_its_command(task):
    by_action, by_command = (make_vec(task, 3, seed=1) for _ in range(2))
    act_dim = by_action.task_spec.act_dim
    rng = np.random.default_rng(0)
    for env in (by_action, by_command):
        env.reset()
    for _ in range(5):
        action = rng.uniform(-1, 1, (3, act_dim))
        command = by_action.task_spec.action_map.command(by_command.command, action)
        one = by_action.step(action)
        other = by_command.step_commands(command)
        for a, b in zip(one[:4], other[:4], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_a_chunk_of_different_commands_is_played_entry_by_entry():
    """A held rate would make steps of equal size; these are .01, .02 and -.01 rad."""
    env = Hold(make_vec("arm", 1, 0), 4)
    obs, _ = env.reset()
    start = obs[0, COMMAND].astype(float)
    offsets = np.array([0.01, 0.03, 0.02, 0.02])
    infos = env.step_commands(np.tile(start, (1, 4, 1)) + offsets[None, :, None])[-1]
    played = infos["path"][:, 0, COMMAND] - start
    np.testing.assert_allclose(played, np.tile(offsets[:, None], 6), atol=1e-6)


def test_absolute_commands_are_not_read_back_as_one_action():
    """The pendulum feels .1, .5, .9 and .2 Nm, not four times .1."""
    chunked = Hold(make_vec("gym:Pendulum-v1", 1, 3), 4)
    stepped = make_vec("gym:Pendulum-v1", 1, 3)
    for env in (chunked, stepped):
        env.reset()
    torques = np.array([[[0.1], [0.5], [0.9], [0.2]]])
    path = chunked.step_commands(torques)[-1]["path"]
    one_by_one = [stepped.step_commands(torques[:, k])[0] for k in range(4)]
    np.testing.assert_allclose(path, one_by_one, rtol=1e-6)
    held = Hold(make_vec("gym:Pendulum-v1", 1, 3), 4)
    held.reset()
    assert np.abs(held.step_commands(torques[:, [0] * 4])[-1]["path"] - path).max() > 0.05


def test_a_jump_is_limited_as_on_the_robot():
    env = make_vec("arm", 1, 0)
    obs, _ = env.reset()
    before = obs[0, COMMAND].astype(float)
    after = env.step_commands(before[None] + 1.0)[0][0, COMMAND]
    np.testing.assert_allclose(after - before, np.full(6, 0.03), atol=1e-6)  # 3 rad/s, 10 ms


def test_the_limits_are_those_of_the_fields():
    spec = task_spec("arm")
    low, high = (np.array([getattr(f, k)[0] for f in spec.action]) for k in ("low", "high"))
    near = np.array([high - 0.01])
    np.testing.assert_allclose(spec.limited(near, near + 1.0), [high])
    np.testing.assert_allclose(spec.limited(np.array([low]), np.array([low - 1.0])), [low])


def test_the_simulated_robot_would_do_the_same():
    task = PressTask()
    env = task.make_vec(1, 0)
    env.reset()
    core = RobotCore(task)
    state = {"state": task.restarts[0][[3]], "sensor": task.restarts[1][[3]]}
    command = task.restarts[1][3, :6].copy()
    env.set_state(env.get_state() | state | {"command": command[None]})
    core._begin(tuple(part[[3]] for part in task.restarts), 0)
    for k, step in enumerate((0.01, 0.03, -0.02, 0.025)):
        command = command + step
        obs = env.step_commands(command[None])[0]
        core.receive(np.clip(command, *task.command_range()), 0)
        for i in range(task.n_substeps):
            core.step((k * task.n_substeps + i) * core.period_ns)
    np.testing.assert_allclose(core.obs()[:6], obs[0, :6], atol=1e-3)


def test_evaluating_commands_equals_evaluating_their_actions():
    amap = task_spec("arm-press").action_map

    def act(obs):
        return np.tanh(obs[:, 6:12] + 0.3)

    def answer(obs):
        return amap.chunk(obs, act(obs), 10)

    by_action = evaluate(act, "arm-press", 6, seed=2, n_action_steps=10)
    by_command = evaluate_commands(answer, "arm-press", 6, seed=2, n_action_steps=10)
    assert by_command.mean_return == pytest.approx(by_action.mean_return, abs=1e-3)
    assert by_command.success == by_action.success


@pytest.mark.parametrize("shape", [(1, 3, 6), (1, 6), (2, 4, 6)])
def test_a_chunk_of_another_shape_is_refused(shape):
    env = Hold(make_vec("arm", 1, 0), 4)
    env.reset()
    with pytest.raises(ValueError, match="has shape"):
        env.step_commands(np.zeros(shape))


def test_a_command_that_is_not_finite_is_refused():
    env = make_vec("arm", 1, 0)
    env.reset()
    with pytest.raises(ValueError, match=r"command is not finite in rows \[0\]"):
        env.step_commands(np.full((1, 6), np.nan))
