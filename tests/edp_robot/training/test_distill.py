from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny import tiny_distill, tiny_finetune

from edp_robot.deploy.students import PairedStudent
from edp_robot.diffusion.schedule import alpha_sigma
from edp_robot.training.distill import distill, load_student
from edp_robot.training.distillers import ConsistencyDistillation, PairedRegression, distance
from edp_robot.training.finetune import finetune
from edp_robot.training.source import load_source


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "run"
    finetune(tiny_finetune(pretrained), str(out))
    return out


def test_the_student_learns_the_teachers_map(tuned):
    """The same noise gives the same action, nearer than any answer that does not know the noise."""
    torch.manual_seed(0)
    source = load_source(tuned)
    config = replace(tiny_distill(tuned), n_chunks=60, pairs_per_chunk=512)
    student = PairedStudent(source.teacher.normaliser, 22, 6, 64, 2)
    states = torch.from_numpy(np.zeros((16, 22), np.float32))
    trainer = PairedRegression(source, student, states, config)
    last = [trainer.chunk()["loss"] for _ in range(60)][-1]
    target = trainer.pairs()[2]
    assert last < 0.6 * distance(target, target.mean(0)).mean()


@pytest.mark.parametrize("method", ["paired", "consistency"])
@torch.no_grad()
def test_students_of_more_calls_share_one_training(tuned, tmp_path, method):
    weights = {}
    for steps in (1, 4):
        with torch.enable_grad():
            config = tiny_distill(tuned, steps=steps, method=method)
            student = distill(config, str(tmp_path / str(steps)))
        weights[steps] = student.net.state_dict()
        obs = torch.zeros(3, 22)
        noise = torch.randn(3, student.latent_dim)
        action = student(obs, noise)
        assert action.shape == (3, 6)
        assert action.abs().max() <= 1
        loaded, _ = load_student(tmp_path / str(steps))
        first, _ = load_student(tmp_path / "1")
        assert torch.equal(action, loaded(obs, noise))
        assert torch.equal(action, first.with_steps(steps)(obs, noise))
    assert all(torch.equal(weights[1][name], weights[4][name]) for name in weights[1])


class Point(torch.nn.Module):
    """The exact noise model of data that is always `a`: eps = (x_t - alpha a) / sigma."""

    def __init__(self, a):
        super().__init__()
        self.a = torch.tensor(a)

    def forward(self, x, t, condition=None):
        alpha, sigma = alpha_sigma(t)
        return (x - alpha.unsqueeze(-1) * self.a) / sigma.unsqueeze(-1)


def test_the_teachers_step_follows_its_ode():
    """For data at one point the ODE's paths are known.

    x_u = alpha_u a + sigma_u (x_t - alpha_t a) / sigma_t.
    """
    point = Point([0.3, -0.2])
    trainer = object.__new__(ConsistencyDistillation)
    trainer.source = SimpleNamespace(teacher=SimpleNamespace(model=point))
    t = torch.tensor([0.9, 0.4, 0.02])
    u = torch.tensor([0.5, 0.1, 0.001])
    eps = torch.randn(3, 2)
    alpha_t, sigma_t = (c.unsqueeze(-1) for c in alpha_sigma(t))
    alpha_u, sigma_u = (c.unsqueeze(-1) for c in alpha_sigma(u))
    got = trainer.teacher_step(alpha_t * point.a + sigma_t * eps, t, u, torch.zeros(3, 1))
    torch.testing.assert_close(got, alpha_u * point.a + sigma_u * eps, atol=1e-4, rtol=1e-4)


def test_a_resumed_distillation_equals_an_uninterrupted_one(tuned, tmp_path, monkeypatch):
    config = replace(tiny_distill(tuned), n_chunks=12)
    distill(config, str(tmp_path / "whole"))
    chunk = PairedRegression.chunk
    calls = []

    def cut(self):
        calls.append(1)
        if len(calls) == 11:  # the checkpoint came after the tenth
            raise KeyboardInterrupt
        return chunk(self)

    monkeypatch.setattr(PairedRegression, "chunk", cut)
    with pytest.raises(KeyboardInterrupt):
        distill(config, str(tmp_path / "cut"))
    monkeypatch.undo()
    distill(config, str(tmp_path / "cut"), resume=True)
    whole, again = (load_student(tmp_path / name)[0].state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_other_numbers_of_steps_are_refused(tuned):
    with pytest.raises(ValueError, match="steps=3"):
        tiny_distill(tuned, steps=3)
