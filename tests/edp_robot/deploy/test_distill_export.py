import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from support.tiny import tiny_distill, tiny_finetune

from edp_robot.deploy import export as export_module
from edp_robot.deploy import policies
from edp_robot.deploy.export import ParityError, export, load_policy, parity, to_onnx
from edp_robot.deploy.policies import BestOfK, Deployed
from edp_robot.deploy.students import ConsistencyNet, PairedStudent
from edp_robot.diffusion.schedule import alpha_sigma
from edp_robot.training.actor import torch_actor
from edp_robot.training.distill import distill, load_student
from edp_robot.training.distillers import ConsistencyDistillation, PairedRegression, distance
from edp_robot.training.finetune import finetune
from edp_robot.training.source import load_critic, load_source
from policy_server.contract.bundle import Bundle
from policy_server.runtime.base import load_backend
from sim.core.evaluate import evaluate, wilson
from sim.core.hold import Hold
from sim.core.registry import make_vec, task_spec


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
    """Same noise, same action: nearer than any answer that does not know the noise can be."""
    torch.manual_seed(0)
    source = load_source(tuned)
    config = replace(tiny_distill(tuned), n_chunks=60, pairs_per_chunk=512)
    student = PairedStudent(source.teacher.normaliser, 22, 6, 64, 2)
    trainer = PairedRegression(
        source, student, torch.from_numpy(np.zeros((16, 22), np.float32)), config
    )
    last = [trainer.chunk()["loss"] for _ in range(60)][-1]
    target = trainer.pairs()[2]
    assert last < 0.6 * distance(target, target.mean(0)).mean()


def test_polish_is_the_teachers_own_last_steps(tuned):
    """mu noised to tau with the same noise, then a DPM-Solver++ step of the teacher from there."""
    source = load_source(tuned)
    student = PairedStudent(
        source.teacher.normaliser, 22, 6, 32, 2, teacher=source.teacher.model, tau=0.15
    )
    polished = student.with_steps(2)
    obs, z = torch.zeros(3, 22), torch.randn(3, 6)
    alpha = np.exp(-(0.15**2) * 19.9 / 4 - 0.15 * 0.05)
    sigma = np.sqrt(1 - alpha**2)
    with torch.no_grad():
        condition = source.teacher.normaliser(obs)
        a = student.net(torch.cat([condition, z], -1)).clamp(-1, 1)
        x = alpha * a + sigma * z
        x0 = (
            (x - sigma * source.teacher.model(x, torch.full((3,), 0.15), condition)) / alpha
        ).clamp(-1, 1)
        a_end = np.exp(-(1e-6) * 19.9 / 4 - 1e-3 * 0.05)
        s_end = np.sqrt(1 - a_end**2)
        expected = s_end / sigma * x + (a_end - s_end / sigma * alpha) * x0
        assert torch.allclose(polished(obs, z), expected.clamp(-1, 1), atol=1e-5)
    assert (
        student.latent_dim,
        polished.latent_dim,
        polished.n_denoise_steps,
        student.n_denoise_steps,
    ) == (6, 6, 2, 1)
    with pytest.raises(ValueError, match="2 calls: all but the first are the teacher's"):
        PairedStudent(source.teacher.normaliser, 22, 6).with_steps(2)(obs, z)


@pytest.mark.parametrize("method", ["paired", "consistency"])
def test_students_of_more_calls_share_one_training(tuned, tmp_path, method):
    nets = {}
    for steps in (1, 4):
        student = distill(
            tiny_distill(tuned, steps=steps, method=method), str(tmp_path / str(steps))
        )
        nets[steps] = student.net.state_dict()
        again, _ = load_student(tmp_path / str(steps))
        obs, noise = torch.zeros(3, 22), torch.randn(3, student.latent_dim)
        with torch.no_grad():
            action = again(obs, noise)
            assert torch.equal(action, student(obs, noise))
            assert torch.equal(
                action, load_student(tmp_path / "1")[0].with_steps(steps)(obs, noise)
            )
        assert action.shape == (3, 6) and action.abs().max() <= 1
    assert all(torch.equal(nets[1][k], nets[4][k]) for k in nets[1])


def test_consistency_ends_at_the_data():
    """f(x, T_MIN) = x / alpha whatever the network says, and at t = 1 hardly anything of x passes by the network."""
    torch.manual_seed(0)
    net, x, condition = ConsistencyNet(2, 3, 16, 1), torch.randn(5, 2), torch.randn(5, 3)
    with torch.no_grad():
        at_end = net(x, torch.full((1, 1), 1e-3), condition)
        alpha = np.exp(-(1e-6) * 19.9 / 4 - 1e-3 * 0.05)
        torch.testing.assert_close(at_end, x / alpha, atol=1e-4, rtol=1e-4)
        net.body[-1][-1].weight.zero_(), net.body[-1][-1].bias.zero_()
        assert net(x, torch.ones(1, 1), condition).abs().max() < 0.01


class Point(torch.nn.Module):
    """The exact noise model of data that is always `a`: eps = (x_t - alpha a) / sigma."""

    def __init__(self, a):
        super().__init__()
        self.a = torch.tensor(a)

    def forward(self, x, t, condition=None):
        alpha, sigma = alpha_sigma(t)
        return (x - alpha.unsqueeze(-1) * self.a) / sigma.unsqueeze(-1)


def test_the_teachers_step_follows_its_ode():
    """For data at one point the ODE's paths are known: x_u = alpha_u a + sigma_u (x_t - alpha_t a) / sigma_t."""
    point = Point([0.3, -0.2])
    trainer = object.__new__(ConsistencyDistillation)
    trainer.source = SimpleNamespace(teacher=SimpleNamespace(model=point))
    t, u, eps = torch.tensor([0.9, 0.4, 0.02]), torch.tensor([0.5, 0.1, 0.001]), torch.randn(3, 2)
    (at, st), (au, su) = (tuple(c.unsqueeze(-1) for c in alpha_sigma(v)) for v in (t, u))
    got = trainer.teacher_step(at * point.a + st * eps, t, u, torch.zeros(3, 1))
    torch.testing.assert_close(got, au * point.a + su * eps, atol=1e-4, rtol=1e-4)


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
    assert inside.sum() > 3 and np.allclose(
        spec.action_map.action(obs, got)[inside], action[inside], atol=1e-4
    )


def test_playing_the_exported_chunk_is_what_training_did(bundle):
    """The graph's commands, played one a control step, move the world as Hold does with the policy's action."""
    backend, amap = load_backend(bundle), task_spec("arm-press").action_map
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
        item = load_policy(run, n_denoise_steps=3)
        graph = to_onnx(item.policy, item.source.spec, 10)
        found = parity(graph, item.policy, item.source.spec, 10, states)
        assert found["max_abs_error"] <= 1e-5 and set(found["static"]) == {"1", "4", "8", "16"}
        assert not {"Loop", "If", "Scan"} & {
            node.op_type for node in onnx.load_from_string(graph).graph.node
        }


def test_best_of_k_answers_what_the_critic_likes_best():
    """A policy that answers its noise, a critic that is Q(a) = min(a, 2 - a): the noise nearest 1 is chosen."""

    class Echo(torch.nn.Module):
        latent_dim = 1

        def forward(self, obs, noise):
            return noise

    class Tent(torch.nn.Module):
        def forward(self, obs, action):
            return torch.stack([action.squeeze(-1), 2 - action.squeeze(-1)])

    best = BestOfK(Echo(), policies.Normaliser(torch.zeros(2), torch.ones(2)), Tent(), 3)
    noise = torch.tensor([[0.1, 0.8, 1.9], [1.3, -1.0, 0.6]])
    assert best.latent_dim == 3
    torch.testing.assert_close(best(torch.zeros(2, 2), noise), torch.tensor([[0.8], [1.3]]))
    with pytest.raises(ValueError, match="best of 1"):
        BestOfK(Echo(), best.normaliser, Tent(), 1)


def test_best_of_k_is_inside_the_graph(student_run, pretrained, tmp_path):
    bundle = export(student_run, tmp_path / "b", best_of=4)
    assert (bundle.manifest.latent_dim, bundle.manifest.sampler["best_of"]) == (24, 4)
    single = load_policy(student_run).policy
    golden, spec = bundle.golden(), task_spec("arm-press")
    critic, rows = load_critic(student_run, spec), torch.from_numpy(golden["obs"])
    wide, noise = rows.repeat_interleave(4, 0), torch.from_numpy(golden["noise"]).reshape(-1, 6)
    with torch.no_grad():
        actions = single(wide, noise)
        q = critic(single.normaliser(wide), actions).min(0).values.reshape(-1, 4)
        chosen = actions.reshape(-1, 4, 6)[torch.arange(len(rows)), q.argmax(1)].numpy()
    expected = spec.action_map.chunk(golden["obs"], chosen, 10)
    np.testing.assert_allclose(
        load_backend(bundle).act(golden["obs"], golden["noise"]), expected, atol=1e-5
    )
    with pytest.raises(ValueError, match="without a critic"):
        export(pretrained, tmp_path / "c", best_of=4)


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
    backend, amap = load_backend(bundle), source.spec.action_map
    noise = np.random.default_rng(1).standard_normal((20, 5, 6), dtype=np.float32)

    def runner(act):
        count = iter(range(10_000))
        return evaluate(
            lambda obs: act(obs, noise[next(count) % 20]), "arm-reach-left", 5, 3, 10
        ).mean_return

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
    assert (
        result.n_episodes == 7
        and 0 <= result.success_low <= result.success <= result.success_high <= 1
    )
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
