"""Commands on a policy with memory: it commands 0.01 k at decision k of each episode."""

import json
import sys

import numpy as np
import pytest
from support import remembering

from edp_robot import cli
from edp_robot.cli.evaluate import evaluate as evaluate_command
from policy_server.control.local import LocalPolicy
from sim.core import evaluate
from sim.core.registry import task_spec
from sim.core.vec import TaskVectorEnv

TASK = "arm-reach-left"


def edp(*words):
    return cli.main([*map(str, words)])


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    return remembering.counting_bundle(
        tmp_path_factory.mktemp("memory") / "bundle", task_spec(TASK)
    )


@pytest.fixture
def played(monkeypatch):
    """Commands (n, act_dim) of every control step, in order. Row 0's first episode ends early."""
    commands = []
    make_vec = evaluate.make_vec

    def watched(*args) -> TaskVectorEnv:
        env = make_vec(*args)
        step_commands = env.step_commands

        def step(wanted):
            commands.append(np.array(wanted))
            obs, reward, terminated, truncated, infos = step_commands(wanted)
            terminated = terminated | (np.arange(len(wanted)) == 0) & (len(commands) == 5)
            return obs, reward, terminated, truncated, infos

        monkeypatch.setattr(env, "step_commands", step)
        return env

    monkeypatch.setattr(evaluate, "make_vec", watched)
    return commands


def assert_counts(played):
    """Asserts that each row counted from 1 on, and row 0 again after its end."""
    counts = np.rint(100 * np.stack(played)[:, :, 0]).astype(int)
    n_steps = task_spec(TASK).episode_steps
    assert counts[:, 1].tolist() == list(range(1, n_steps + 1))
    assert counts[:, 0].tolist() == [1, 2, 3, 4, 5, *range(1, n_steps - 4)]


def test_each_episode_of_an_evaluation_has_its_own_memory(counting, played):
    assert edp("evaluate", "--bundle", counting, "--episodes", 2) == 0
    assert_counts(played)


def test_so_it_has_on_a_server(counting, played, start_server):
    assert edp("evaluate", "--server", start_server(counting).endpoint, "--episodes", 2) == 0
    assert_counts(played)


def test_more_episodes_than_connections_are_refused(counting, start_server, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[evaluate_command.__module__], "MAX_CONNECTIONS", 1)
    assert edp("evaluate", "--server", start_server(counting).endpoint, "--episodes", 2) == 1
    assert "at most 1; give fewer --episodes, or --bundle" in capsys.readouterr().err


def test_latency_of_a_policy_with_memory_is_measured(counting, tmp_path):
    result = tmp_path / "l.json"
    assert edp("bench", "latency", counting, "--n", 20, "--json", result) == 0
    assert json.loads(result.read_text())["inference_us"]["n"] == 20


def test_fewer_bits_are_refused_in_one_line(counting, capsys):
    assert edp("calibrate", "quant", counting) == 1
    said = capsys.readouterr().err
    assert "counting has memory (state_dim 1)" in said
    assert said.count("\n") == 1


def test_a_local_policy_is_the_same(counting):
    with LocalPolicy(counting, "cpu") as policy:
        obs = np.zeros(task_spec(TASK).obs_dim)
        got = [float(policy.act(obs)[0, 0]) for _ in range(3)]
    np.testing.assert_allclose(got, [0.01, 0.02, 0.03])
