"""Students keep both modes of data whose mean is wrong, with a teacher that is exact."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny import plain_spec

from edp_robot.deploy.policies import DiffusionPolicy
from edp_robot.diffusion.networks import Normaliser
from edp_robot.diffusion.schedule import alpha_sigma
from edp_robot.training.distillers import DISTILLERS, DistillConfig, make_student

MODES = torch.tensor([-0.7, 0.7])
STD = 0.05
SHARE = torch.tensor([0.3, 0.7])


class Exact(torch.nn.Module):
    """The noise model of two Gaussians of STD at MODES: (x - alpha E[x_0 | x]) / sigma."""

    def forward(self, x, t, condition=None):
        alpha, sigma = (c.unsqueeze(-1) for c in alpha_sigma(t))
        variance = (alpha * STD) ** 2 + sigma**2
        weights = torch.softmax(SHARE.log() - (x - alpha * MODES) ** 2 / (2 * variance), -1)
        means = MODES + alpha * STD**2 / variance * (x - alpha * MODES)
        return (x - alpha * (weights * means).sum(-1, keepdim=True)) / sigma


@pytest.fixture(scope="module")
def source():
    norm = Normaliser(torch.zeros(2), torch.ones(2))
    teacher = DiffusionPolicy(norm, Exact(), 1)
    return SimpleNamespace(teacher=teacher, spec=plain_spec(obs_dim=2, act_dim=1))


def shares(policy, n=4000):
    """Returns (share within four deviations of a mode, share of these at the right one)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noise = torch.randn(n, policy.latent_dim, generator=generator)
        a = policy(torch.zeros(n, 2), noise).squeeze(-1)
    near = (a.abs() - 0.7).abs() < 4 * STD
    return near.float().mean().item(), (a[near] > 0).float().mean().item()


def test_the_teacher_itself_has_both_modes(source):
    near, right = shares(source.teacher)
    assert near > 0.98 and right == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("method", "least"), [("paired", 0.94), ("consistency", 0.85)])
def test_students_keep_both_modes(source, method, least):
    """Students of 1, 2 and 4 calls do. The mean of the data, .28, is near no mode."""
    torch.manual_seed(0)
    sizes = {
        "width": 64,
        "n_layers": 2,
        "n_chunks": 40,
        "pairs_per_chunk": 2048,
        "passes_per_chunk": 2,
    }
    config = DistillConfig(method=method, learning_rate=3e-3, **sizes)
    student = make_student(source, config)
    trainer = DISTILLERS[method](source, student, torch.zeros(4, 2), config)
    for _ in range(config.n_chunks):
        trainer.chunk()
    for n_calls in (1, 2, 4):
        near, right = shares(student.with_steps(n_calls))
        assert near > least and right == pytest.approx(0.7, abs=0.06), (n_calls, near, right)
    assert np.abs((SHARE * MODES).sum().item() - MODES.numpy()).min() > 8 * STD
