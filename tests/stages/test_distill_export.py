import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_distill, tiny_finetune

from edp_robot import policies
from edp_robot.policies import Deployed, StudentPolicy
from edp_robot.stages import export as export_module
from edp_robot.stages.distill import PairedRegression, distill, load_source, load_student
from edp_robot.stages.evaluate import torch_actor
from edp_robot.stages.export import ParityError, export, load_policy, parity, to_onnx
from edp_robot.stages.finetune import finetune
from policy_server.backends import load
from policy_server.bundle import Bundle
from sim.evaluate import evaluate, wilson
from sim.hold import Hold
from sim.registry import make_vec, task_spec


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "run"
    finetune(tiny_finetune(pretrained), str(out))
    return out


@pytest.fixture(scope="module")
def student_run(tuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("student") / "run"
    distill(tiny_distill(tuned), str(out))
    return out


@pytest.fixture(scope="module")
def bundle(student_run, tmp_path_factory):
    return export(student_run, tmp_path_factory.mktemp("bundle") / "b", metrics={"success": 0.5})


def test_the_student_learns_the_teachers_map(tuned):
    """Same noise, same action: more training brings the student nearer, and noise matters to both."""
    torch.manual_seed(0)
    source = load_source(tuned)
    config = replace(tiny_distill(tuned), n_chunks=20, pairs_per_chunk=512)
    student = StudentPolicy(source.teacher.normaliser, 22, 6, 64, 2)
    trainer = PairedRegression(source, student, torch.from_numpy(np.zeros((16, 22), np.float32)), config)
    first = trainer.chunk()
    last = [trainer.chunk() for _ in range(19)][-1]
    assert last < first / 3
    assert trainer.pairs()[2].std(0).min() > 0.05


def test_a_two_mode_teacher_stays_two_modes():
    """A teacher whose actions are +-0.7 with equal odds: the mean, 0, is never right, and the student never says it."""

    class Signs(torch.nn.Module):
        def forward(self, obs, noise):
            return 0.7 * torch.tanh(20 * noise)

    class Source:
        teacher = Signs()
        spec = replace(task_spec("arm"), action=task_spec("arm").action[:1])

    torch.manual_seed(0)
    norm = policies.Normaliser(torch.zeros(22), torch.ones(22))
    student = StudentPolicy(norm, 22, 1, 128, 2)
    config = replace(tiny_distill("x"), n_chunks=30, pairs_per_chunk=2048, learning_rate=3e-3)
    trainer = PairedRegression(Source(), student, torch.zeros(4, 22), config)
    for _ in range(30):
        trainer.chunk()
    with torch.no_grad():
        action = student(torch.zeros(2000, 22), torch.randn(2000, 1)).squeeze()
    assert (action.abs() - 0.7).abs().median() < 0.05
    assert (action.abs() < 0.35).float().mean() < 0.1  # the teacher's own share is .02; the mean's would be 1
    assert (action > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_polish_is_the_teachers_data_prediction(tuned):
    source = load_source(tuned)
    student = StudentPolicy(source.teacher.normaliser, 22, 6, 32, 2, teacher=source.teacher.model, tau=0.15)
    obs, z = torch.zeros(3, 22), torch.randn(3, 6)
    alpha = np.exp(-(0.15**2) * 19.9 / 4 - 0.15 * 0.05)
    sigma = np.sqrt(1 - alpha**2)
    with torch.no_grad():
        condition = source.teacher.normaliser(obs)
        a = student.net(torch.cat([condition, z], -1)).clamp(-1, 1)
        x = alpha * a + sigma * z
        expected = (x - sigma * source.teacher.model(x, torch.full((3,), 0.15), condition)) / alpha
        assert torch.allclose(student(obs, z), expected.clamp(-1, 1), atol=1e-5)
    assert student.n_denoise_steps == 2


def test_deployed_equals_the_action_map():
    spec, rng = task_spec("arm-press"), np.random.default_rng(0)
    obs = rng.normal(size=(50, 22)).astype(np.float32)
    action = rng.uniform(-1, 1, (50, 6)).astype(np.float32)

    class Fixed(torch.nn.Module):
        def forward(self, obs, noise):
            return torch.from_numpy(action)

    got = Deployed(Fixed(), spec.action_map, 10)(torch.from_numpy(obs), torch.zeros(50, 6)).numpy()
    assert np.allclose(got, spec.action_map.chunk(obs, action, 10), atol=1e-6)
    inside = np.abs(obs[:, 12:18]).max(1) < 1.0
    assert inside.sum() > 3 and np.allclose(spec.action_map.action(obs, got)[inside], action[inside], atol=1e-4)


def test_playing_the_exported_chunk_is_what_training_did(bundle):
    """The graph's commands, played one a control step, move the world as Hold does with the policy's action."""
    backend, amap = load(bundle), task_spec("arm-press").action_map
    env, plain = Hold(make_vec("arm-press", 3, 5), 10), make_vec("arm-press", 3, 5)
    obs, _ = env.reset(seed=5)
    plain_obs, _ = plain.reset(seed=5)
    noise = np.random.default_rng(0).standard_normal((3, 6), dtype=np.float32)
    chunk = backend.act(obs, noise)
    held, *_ = env.step(amap.action(obs, chunk))
    for k in range(10):
        plain_obs, *_ = plain.step((chunk[:, k] - plain_obs[:, 12:18]) / np.asarray(amap.scale))
    assert np.allclose(plain_obs[:, 12:18], chunk[:, -1], atol=1e-5)
    assert np.allclose(held, plain_obs, atol=1e-3)


def test_export_is_exact_and_complete(bundle, student_run):
    manifest = Bundle.load(bundle.path).manifest
    assert manifest.parity["max_abs_error"] <= 1e-5 and manifest.parity["n"] == 4096
    assert (manifest.task, manifest.horizon, manifest.n_action_steps) == ("arm-press", 10, 10)
    assert (manifest.obs_dim, manifest.act_dim, manifest.latent_dim) == (22, 6, 6)
    assert manifest.control_period_s == 0.01 and manifest.sampler["n_denoise_steps"] == 1
    assert manifest.metrics == {"success": 0.5} and len(manifest.config_hash) == 64
    assert manifest.action[0].name == "shoulder_pan.target" and manifest.action[0].unit == "rad"


def test_every_exported_policy_equals_torch(tuned, student_run):
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 22)).astype(np.float32))
    for run in (tuned, student_run):
        item = load_policy(run)
        graph = to_onnx(item.policy, item.source.spec, 10)
        assert parity(graph, item.policy, item.source.spec, 10, states) <= 1e-5


def test_a_graph_that_differs_is_not_written(student_run, tmp_path, monkeypatch):
    wrong = to_onnx(load_policy(student_run).policy, task_spec("arm-press"), 10)

    def shifted(policy, spec, horizon):
        with torch.no_grad():
            policy.net[-1].bias += 0.01
        return wrong

    monkeypatch.setattr(export_module, "to_onnx", shifted)
    with pytest.raises(ParityError, match="onnx and torch differ by"):
        export(student_run, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_student_in_onnx_succeeds_as_in_torch(bundle, student_run):
    """The same noise and starts give the same return in both, within float32 and MuJoCo's sensitivity to it."""
    student, source = load_student(student_run)
    backend, amap = load(bundle), source.spec.action_map
    noise = np.random.default_rng(1).standard_normal((20, 5, 6), dtype=np.float32)

    def runner(act):
        count = iter(range(10_000))
        return evaluate(lambda obs: act(obs, noise[next(count) % 20]), "arm-reach-left", 5, 3, 10).mean_return

    def onnx(obs, z):
        return amap.action(obs, backend.act(obs, z))

    def torch_act(obs, z):
        with torch.no_grad():
            return student(torch.from_numpy(obs), torch.from_numpy(z)).numpy()

    assert runner(onnx) == pytest.approx(runner(torch_act), rel=1e-3)


def test_resumed_distillation_equals_uninterrupted(tuned, tmp_path, monkeypatch):
    config = replace(tiny_distill(tuned), n_chunks=12)
    distill(config, str(tmp_path / "whole"))
    chunk, count = PairedRegression.chunk, []

    def cut(self):
        count.append(1)
        if len(count) == 11:  # the checkpoint was after the tenth
            raise KeyboardInterrupt
        return chunk(self)

    monkeypatch.setattr(PairedRegression, "chunk", cut)
    with pytest.raises(KeyboardInterrupt):
        distill(config, str(tmp_path / "cut"))
    monkeypatch.undo()
    distill(config, str(tmp_path / "cut"), resume=True)
    whole, again = (load_student(tmp_path / k)[0].state_dict() for k in ("whole", "cut"))
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_only_runs_with_a_diffusion_policy_distil(pretrained, student_run, tmp_path):
    with pytest.raises(ValueError, match="holds no diffusion policy"):
        load_source(student_run)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_source(tmp_path)
    with pytest.raises(ValueError, match="steps=3"):
        tiny_distill(pretrained, steps=3)


def test_evaluation_counts_every_episode_once():
    task = "arm-reach-left"
    result = evaluate(lambda obs: np.zeros((len(obs), 6)), task, 7, 0, 10)
    assert result.n_episodes == 7 and 0 <= result.success_low <= result.success <= result.success_high <= 1
    spec = task_spec(task)
    env = make_vec(task, 7, 0)
    env.reset(seed=0)
    total = np.zeros(7)
    for _ in range(spec.episode_steps):
        _, reward, *_ = env.step(np.zeros((7, 6)))
        total += reward
    assert result.mean_return == pytest.approx(total.mean(), rel=1e-4)


def test_wilson_by_hand():
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-3)


def test_actor_noise_is_reproducible(tuned):
    policy, obs = load_source(tuned).teacher, np.zeros((4, 22), np.float32)
    assert np.array_equal(torch_actor(policy, 3)(obs), torch_actor(policy, 3)(obs))
    assert not np.array_equal(torch_actor(policy, 3)(obs), torch_actor(policy, 4)(obs))
    assert json.dumps(evaluate(torch_actor(policy, 3), "arm-press", 2, 0, 10).to_json())
