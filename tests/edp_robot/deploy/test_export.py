import logging

import numpy as np
import onnx
import pytest
import torch
from support.graphs import make_graph
from support.tiny import tiny_finetune

from edp_robot.deploy import export as export_module
from edp_robot.deploy.export import (
    ParityError,
    compared,
    export,
    load_policy,
    parity,
    to_onnx,
    warn_of_unnamed,
)
from edp_robot.deploy.policies import Deployed
from edp_robot.training.distill import load_student
from edp_robot.training.finetune import finetune, load_learner
from edp_robot.training.runs import RunRecord
from edp_robot.training.source import load_critic, load_source
from policy_server.contract.bundle import Bundle
from policy_server.contract.field import Field
from policy_server.runtime.base import load_backend
from sim.core.evaluate import evaluate, evaluate_commands
from sim.core.registry import make_vec, task_spec


def test_the_manifest_says_what_was_exported(bundle):
    manifest = Bundle.load(bundle.path).manifest
    assert (manifest.task, manifest.horizon, manifest.n_action_steps) == ("arm-press", 10, 10)
    assert (manifest.obs_dim, manifest.act_dim, manifest.latent_dim) == (22, 6, 6)
    assert (manifest.control_period_s, manifest.sampler["n_denoise_steps"]) == (0.01, 1)
    assert manifest.metrics == {"success": 0.5}
    assert len(manifest.config_hash) == 64
    assert manifest.parity["n"] == 4096
    assert manifest.parity["max_abs_error"] <= 1e-5


def test_the_fields_are_the_tasks_with_the_names_of_their_numbers(bundle):
    spec = task_spec("arm-press")
    manifest = Bundle.load(bundle.path).manifest
    assert (manifest.obs, manifest.action) == (spec.obs, spec.action)
    assert manifest.action[0].entry_names() == ("shoulder_pan.target",)


def test_fields_without_names_are_warned_of(caplog):
    named = Field("arm", 0, 2, "rad", (0, 0), (1, 1), entries=("hip", "knee"))
    single = Field("hip.target", 0, 1, "rad", (0,), (1,))
    with caplog.at_level(logging.WARNING):
        warn_of_unnamed((named, single))
        assert not caplog.records
        warn_of_unnamed((named, Field("state", 2, 4, "1", (0, 0), (1, 1))))
    assert "the entries of state have no names" in caplog.text


@torch.no_grad()
def test_playing_the_exported_chunk_is_what_training_did(bundle, student_run):
    """The graph's commands move the world as the policy's held action does."""
    student, _ = load_student(student_run)
    commanded = make_vec("arm-press", 3, 5)
    held = make_vec("arm-press", 3, 5)
    obs, _ = commanded.reset(seed=5)
    held.reset(seed=5)
    noise = np.random.default_rng(0).standard_normal((3, 6), dtype=np.float32)
    chunk = load_backend(bundle, "cpu").act(obs, noise)
    action = student(torch.from_numpy(obs), torch.from_numpy(noise)).numpy()
    for k in range(10):
        obs_by_command, *_ = commanded.step_commands(chunk[:, k])
        obs_by_action, *_ = held.step(action)
    np.testing.assert_allclose(obs_by_command[:, 12:18], chunk[:, -1], atol=1e-5)
    np.testing.assert_allclose(obs_by_command, obs_by_action, atol=1e-3)


@pytest.mark.parametrize("fixture", ["tuned", "student_run"])
def test_every_exported_policy_equals_torch(fixture, request):
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 22)).astype(np.float32))
    item = load_policy(request.getfixturevalue(fixture), n_denoise_steps=3)
    spec = item.source.spec
    graph = to_onnx(item.policy, spec, 10)
    deployed = Deployed(item.policy, spec.action_map, 10).eval()
    found = parity(graph, compared(deployed, states, n=400, seed=0), spec.action)
    assert found["max_abs_error"] <= 1e-5 and found["max_relative_error"] <= 1e-5
    assert (found["n"], set(found["static"])) == (400, {"1", "4", "8", "16"})
    ops = {node.op_type for node in onnx.load_from_string(graph).graph.node}
    assert not {"Loop", "If", "Scan"} & ops


@torch.no_grad()
def test_best_of_k_is_inside_the_graph(student_run, tmp_path):
    bundle = export(student_run, tmp_path / "b", best_of=4)
    assert (bundle.manifest.latent_dim, bundle.manifest.sampler["best_of"]) == (24, 4)
    golden = bundle.golden()
    spec = task_spec("arm-press")
    student = load_policy(student_run).policy
    rows = torch.from_numpy(golden["obs"])
    wide = rows.repeat_interleave(4, 0)
    actions = student(wide, torch.from_numpy(golden["noise"]).reshape(-1, 6))
    q = load_critic(student_run, spec)(student.normaliser(wide), actions).min(0).values
    best = q.reshape(-1, 4).argmax(1)
    chosen = actions.reshape(-1, 4, 6)[torch.arange(len(rows)), best].numpy()
    expected = spec.action_map.chunk(golden["obs"], chosen, 10)
    answered = load_backend(bundle, "cpu").act(golden["obs"], golden["noise"])
    np.testing.assert_allclose(answered, expected, atol=1e-5)


@pytest.mark.parametrize("high", [87.0, 1.0, 0.001])
def test_what_a_command_may_be_off_is_a_share_of_its_range(high):
    """The graph of another policy, off by 4e-6 and by 4e-5 of the range."""
    motor = (Field("motor", 0, 1, "Nm", (-high,), (high,)),)
    rows = np.random.default_rng(0).uniform(-high, high, (64, 1)).astype(np.float32)
    graph = make_graph([("Identity", "obs", "command")], {}, (1, 1, 1))

    def found(share):
        action = (rows + np.float32(2 * high * share))[:, None]
        return parity(graph, {"obs": rows, "noise": rows, "action": action}, motor)

    agreed = found(4e-6)
    assert agreed["max_relative_error"] == pytest.approx(4e-6, rel=0.05)
    assert agreed["max_abs_error"] == pytest.approx(8e-6 * high, rel=0.05)
    with pytest.raises(ParityError, match=r"differ: motor by \S+ Nm, allowed is"):
        found(4e-5)


@pytest.mark.parametrize("method", ["ddpg", "onestep"])
def test_a_policy_that_acts_in_one_call_is_exported_as_it_is(pretrained, tmp_path, method):
    run = tmp_path / "run"
    finetune(tiny_finetune(pretrained, method=method), str(run))
    bundle = export(run, tmp_path / "b")
    assert (bundle.manifest.latent_dim, bundle.manifest.sampler["method"]) == (6, method)
    assert bundle.manifest.sampler["n_denoise_steps"] == 1
    golden = bundle.golden()
    rows = [torch.from_numpy(golden[name]) for name in ("obs", "noise")]
    record = RunRecord.load(run)
    action = load_learner(record.config, run).policy(*rows).detach().numpy()
    expected = record.spec.action_map.chunk(golden["obs"], action, 10)
    answered = load_backend(bundle, "cpu").act(golden["obs"], golden["noise"])
    np.testing.assert_allclose(answered, expected, atol=1e-5)
    with pytest.raises(ValueError, match=f"by {method}, whose policy answers at once"):
        export(run, tmp_path / "c", best_of=4)
    with pytest.raises(ValueError, match=f"Its {method} policy acts in one call: export it"):
        load_source(run)


def test_a_policy_that_chooses_is_exported_with_its_choice(pretrained, tmp_path):
    run = tmp_path / "run"
    finetune(tiny_finetune(pretrained, method="idql"), str(run))
    assert load_policy(run).sampler()["best_of"] == 4
    assert "best_of" not in load_policy(run, best_of=1).sampler()


def test_best_of_k_needs_a_critic(pretrained, tmp_path):
    with pytest.raises(ValueError, match="without a critic"):
        export(pretrained, tmp_path / "b", best_of=4)


def test_a_graph_that_differs_is_not_written(student_run, tmp_path, monkeypatch):
    wrong = to_onnx(load_policy(student_run).policy, task_spec("arm-press"), 10)

    @torch.no_grad()
    def shifted(policy, spec, horizon):
        policy.net[-1].bias += 0.01
        return wrong

    monkeypatch.setattr(export_module, "to_onnx", shifted)
    with pytest.raises(
        ParityError, match=r"differ: \S+ by \S+ rad, allowed is \S+ \(1e-05 of its range\)"
    ):
        export(student_run, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_student_returns_the_same_in_onnx_and_in_torch(bundle, student_run):
    """Equal noise and starts give equal returns, within float32 and MuJoCo's sensitivity to it."""
    student, source = load_student(student_run)
    backend = load_backend(bundle, "cpu")
    noise = np.random.default_rng(1).standard_normal((20, 5, 6), dtype=np.float32)

    def with_noise(act):
        draws = iter(np.tile(noise, (20, 1, 1)))
        return lambda obs: act(obs, next(draws))

    @torch.no_grad()
    def by_torch(obs, z):
        return student(torch.from_numpy(obs), torch.from_numpy(z)).numpy()

    how = {"task": "arm-reach-left", "n_episodes": 5, "seed": 3, "n_action_steps": 10}
    in_onnx = evaluate_commands(with_noise(backend.act), **how)
    in_torch = evaluate(with_noise(by_torch), **how)
    assert source.n_action_steps == 10
    assert in_onnx.mean_return == pytest.approx(in_torch.mean_return, rel=1e-3)
