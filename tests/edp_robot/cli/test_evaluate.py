"""`edp evaluate`: a bundle and a server are played as they answer, whole chunks of commands."""

import json

import numpy as np
import pytest
from support import graphs

from calibration.precision.judge import N_GROUPS, closed_loop
from edp_robot import cli
from policy_server.contract.bundle import Bundle
from policy_server.runtime.base import load_backend
from sim.core import evaluate
from sim.core.registry import task_spec

TASK = "arm-reach-left"
CHUNK = np.array([0.1, 0.5, 0.9, 0.3], np.float32)


def edp(*words):
    return cli.main(["evaluate", *map(str, words)])


@pytest.fixture
def chunked(tmp_path):
    """Folder of a bundle that answers CHUNK in every joint."""
    return graphs.chunk_bundle(tmp_path / "bundle", task_spec(TASK), CHUNK)


@pytest.fixture
def played(monkeypatch):
    """Commands (n, act_dim) of every control step, in order."""
    commands = []
    make_vec = evaluate.make_vec

    def watched(*args):
        env = make_vec(*args)
        step_commands = env.step_commands

        def step(wanted):
            commands.append(np.array(wanted))
            return step_commands(wanted)

        monkeypatch.setattr(env, "step_commands", step)
        return env

    monkeypatch.setattr(evaluate, "make_vec", watched)
    return commands


def assert_chunks(played, n_episodes):
    """Asserts that every environment was commanded CHUNK over and over, for a whole episode."""
    one = np.tile(CHUNK, task_spec(TASK).episode_steps // len(CHUNK))
    found = np.stack(played)
    assert found.shape == (len(one), n_episodes, 6)
    assert (found == one[:, None, None]).all()


def test_a_bundle_is_played_chunk_by_chunk(chunked, played, tmp_path, capsys):
    result = tmp_path / "e.json"
    assert edp("--bundle", chunked, "--episodes", 2, "--json", result) == 0
    assert_chunks(played, 2)
    assert f"{TASK}: success" in capsys.readouterr().out
    assert json.loads(result.read_text())["n_episodes"] == 2


def test_a_server_is_played_chunk_by_chunk(chunked, played, start_server):
    assert edp("--server", start_server(chunked).endpoint, "--episodes", 2) == 0
    assert_chunks(played, 2)


def test_quantised_versions_are_played_chunk_by_chunk(chunked, played):
    policy = load_backend(chunked, "cpu")
    closed_loop(policy, Bundle.load(chunked).manifest, 1, 0)
    n_steps = len(played) // N_GROUPS
    assert_chunks(played[:n_steps], 1)


def test_a_task_that_a_bundle_names_imports_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    said = {"evil:Task": "no task", "gym:evil:Env-v0": "does not import the module 'evil'"}
    for name, message in said.items():
        folder = tmp_path / name.replace(":", "-")
        bundle = graphs.modes_bundle(folder, graphs.modes_graph(), name)
        assert edp("--bundle", bundle) == 1
        assert message in capsys.readouterr().err


def test_exactly_one_policy_is_evaluated(tmp_path, capsys):
    assert edp() == 1
    assert "0 of --from, --bundle, --server given" in capsys.readouterr().err
    assert edp("--from", tmp_path, "--bundle", tmp_path) == 1
    assert "2 of --from, --bundle, --server given" in capsys.readouterr().err
