import numpy as np
import pytest
import torch

from edp_robot.deploy.students import ConsistencyNet, PairedStudent
from edp_robot.training.source import load_source

T_MIN = 1e-3


def coefficients(t):
    """alpha and sigma by hand (method Eq. 2): log alpha = -t^2 (20 - .1) / 4 - .1 t / 2."""
    alpha = np.exp(-(t**2) * 19.9 / 4 - t * 0.05)
    return alpha, np.sqrt(1 - alpha**2)


@pytest.fixture
def source(tuned):
    return load_source(tuned)


def test_polish_is_the_teachers_own_last_steps(source):
    """mu is noised to tau with the same noise, then the teacher takes a DPM-Solver++ step."""
    model = source.teacher.model
    student = PairedStudent(source.teacher.normaliser, 22, 6, 32, 2, teacher=model, tau=0.15)
    obs = torch.zeros(3, 22)
    z = torch.randn(3, 6)
    alpha, sigma = coefficients(0.15)
    a_end, s_end = coefficients(T_MIN)
    with torch.no_grad():
        condition = source.teacher.normaliser(obs)
        x = alpha * student.net(torch.cat([condition, z], -1)).clamp(-1, 1) + sigma * z
        x0 = (x - sigma * model(x, torch.full((3,), 0.15), condition)) / alpha
        x0 = x0.clamp(-1, 1)
        expected = s_end / sigma * x + (a_end - s_end / sigma * alpha) * x0
        polished = student.with_steps(2)(obs, z)
    torch.testing.assert_close(polished, expected.clamp(-1, 1), atol=1e-5, rtol=0)


def test_more_steps_leave_the_student_as_it_was(source):
    student = PairedStudent(source.teacher.normaliser, 22, 6, 32, 2)
    polished = student.with_steps(2)
    assert (student.n_denoise_steps, polished.n_denoise_steps) == (1, 2)
    assert (student.latent_dim, polished.latent_dim) == (6, 6)


def test_more_steps_need_a_teacher(source):
    student = PairedStudent(source.teacher.normaliser, 22, 6).with_steps(2)
    with pytest.raises(ValueError, match="2 calls: all but the first are the teacher's"):
        student(torch.zeros(3, 22), torch.zeros(3, 6))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ConsistencyNet(2, 3, 16, 1)


@torch.no_grad()
def test_consistency_ends_at_the_data(net):
    """f(x, T_MIN) = x / alpha for any network."""
    x = torch.randn(5, 2)
    at_end = net(x, torch.full((1, 1), T_MIN), torch.randn(5, 3))
    torch.testing.assert_close(at_end, x / coefficients(T_MIN)[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_at_the_start_hardly_anything_passes_by_the_network(net):
    """With a network that answers 0, f(x, 1) is nearly 0."""
    net.body[-1][-1].weight.zero_()
    net.body[-1][-1].bias.zero_()
    answer = net(torch.randn(5, 2), torch.ones(1, 1), torch.randn(5, 3))
    assert answer.abs().max() < 0.01
