"""What an earlier version made still loads, serves, resumes and exports.

tests/data/before/README.md says how it was made.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.serving import running_server

from edp_robot.cli import main
from edp_robot.training.finetune import finetune
from edp_robot.training.pretrain import pretrain
from edp_robot.training.runs import RunRecord, read_metrics
from policy_server import Bundle, ClientKeys, LocalPolicy, PolicyClient, ServerKeys
from policy_server.contract.bundle import extend
from policy_server.transport.keys import read_clients

BEFORE = Path(__file__).parent / "data" / "before"
EVERY_KIND = {
    "arm": ("PretrainConfig", "arm"),
    "rnd": ("PretrainConfig", "arm"),
    "particle": ("PretrainConfig", "arm"),
    "maze_stopped": ("PretrainConfig", "maze-square-a"),
    "press": ("FinetuneConfig", "arm-press"),
    "ddpg": ("FinetuneConfig", "arm-press"),
    "modes": ("CloneConfig", "modes"),
}


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A copy of the old artefacts, with the modes that Git does not keep; the current folder."""
    shutil.copytree(BEFORE, tmp_path / "before")
    for secret in (tmp_path / "before" / "keys").rglob("*.key_secret"):
        secret.chmod(0o600)
    monkeypatch.chdir(tmp_path / "before")
    return tmp_path / "before"


def edp(*arguments):
    """Runs a command in this process and requires that it succeeds."""
    assert main([str(argument) for argument in arguments]) == 0


def test_the_bundle_loads_and_its_fields_have_no_entries(before):
    bundle = Bundle.load("bundle")
    fields = (*bundle.manifest.obs, *bundle.manifest.action)
    assert {field.entries for field in fields} == {None}
    assert (bundle.manifest.obs_dim, bundle.manifest.act_dim) == (22, 6)
    with LocalPolicy("bundle", "cpu") as policy:
        assert policy.act(bundle.golden()["obs"][0]).shape == (bundle.manifest.horizon, 6)


def test_a_bundle_written_again_has_the_same_manifest(before):
    bundle = Bundle.load("bundle")
    again = {key: value for key, value in bundle.manifest.to_dict().items() if key != "files"}
    extended = extend(bundle, {}, {})
    rest = {key: value for key, value in extended.manifest.to_dict().items() if key != "files"}
    assert rest == again
    assert (before / "bundle" / "manifest.json").read_bytes() == (
        BEFORE / "bundle" / "manifest.json"
    ).read_bytes()


def test_the_bundle_is_served_with_the_old_keys(before):
    keys = ServerKeys.load("keys")
    names, faults = read_clients(keys.clients)
    assert list(names.values()) == ["robot-1"] and not faults
    obs = Bundle.load("bundle").golden()["obs"][0]
    robot = ClientKeys.load("keys/private/robot-1.key_secret")
    with (
        running_server("bundle", options=("--keys", "keys")) as server,
        PolicyClient(server.endpoint, timeout_s=10, keys=robot) as client,
    ):
        served = client.act(obs)
    np.testing.assert_array_equal(served, LocalPolicy("bundle", "cpu").act(obs))


@pytest.mark.parametrize("run", EVERY_KIND)
def test_every_kind_of_run_is_read(before, run):
    record = RunRecord.load(run)
    assert (type(record.config).__name__, record.spec.name) == EVERY_KIND[run]
    assert record.commit.startswith("1e87db9")


def test_a_distillation_is_read(before):
    record = RunRecord.load("student")
    assert type(record.config).__name__ == "DistillConfig" and record.config.teacher == "press"


@pytest.mark.parametrize("run", ["maze_stopped", "arm_stopped"])
def test_a_pretraining_resumes(before, run):
    config = RunRecord.load(run).config
    steps, _ = read_metrics(run, "wall_s")
    assert 0 < steps[-1] < config.loop.env_steps
    pretrain(config, run, resume=True)
    resumed, coverage = read_metrics(run, "coverage")
    np.testing.assert_array_equal(resumed[: len(steps)], steps)
    assert resumed[-1] == config.loop.env_steps and coverage[-1] > 0


def test_a_finetuning_resumes(before):
    config = RunRecord.load("press_stopped").config
    steps, _ = read_metrics("press_stopped", "wall_s")
    finetune(config, "press_stopped", resume=True)
    resumed, _ = read_metrics("press_stopped", "wall_s")
    assert steps[-1] < resumed[-1] == config.loop.env_steps


@pytest.mark.parametrize("run", ["press", "ddpg"])
def test_a_finetuning_starts_from_an_old_pretraining(before, run):
    config = RunRecord.load(run).config
    finetune(replace(config, loop=replace(config.loop, env_steps=400)), "new")
    assert (before / "new" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("run", ["arm", "rnd", "press", "modes", "student"])
def test_every_kind_of_run_is_exported(before, run):
    edp("export", "--from", run, "--denoise-steps", 2, "--out", "new")
    bundle = Bundle.load("new")
    chunk = LocalPolicy("new", "cpu").act(bundle.golden()["obs"][0])
    assert chunk.shape == (bundle.manifest.horizon, bundle.manifest.act_dim)
    assert (chunk >= bundle.manifest.action_low).all()
    assert (chunk <= bundle.manifest.action_high).all()


def test_the_student_is_exported_to_the_same_policy(before):
    edp("export", "--from", "student", "--out", "new")
    old = Bundle.load("bundle")
    new = Bundle.load("new")
    for name, array in old.golden().items():
        np.testing.assert_allclose(new.golden()[name], array, atol=1e-5)
    assert new.manifest.config_hash == old.manifest.config_hash


def test_an_old_policy_is_distilled_and_evaluated(before):
    few = ("width=16", "n_chunks=1", "pairs_per_chunk=64", "rollout_episodes=1")
    edp("distill", "--from", "press", "--steps", 2, "--out", "new", "--set", *few)
    assert RunRecord.load("new").config.steps == 2
    edp("evaluate", "--bundle", "bundle", "--episodes", 4, "--json", "e.json")
    assert json.loads((before / "e.json").read_text())["n_episodes"] == 4
