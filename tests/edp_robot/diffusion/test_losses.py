import math

import pytest
import torch

from edp_robot.diffusion.losses import contrastive_energy_loss, denoising_loss, expectile_loss
from edp_robot.diffusion.schedule import T_MIN, alpha_sigma


def bayes_error(s: float, factor: float = 1.0) -> float:
    """E||factor eps_hat - eps||^2 / dim of data N(m, s^2) for the exact eps_hat.

    The time is uniform in [T_MIN, 1].
    """
    alpha, sigma = alpha_sigma(torch.linspace(T_MIN, 1, 20_001, dtype=torch.float64))
    known = sigma**2 / (alpha**2 * s**2 + sigma**2)  # variance of eps_hat; the rest of 1 is error
    error = 1 - known + (factor - 1) ** 2 * known
    return torch.trapezoid(error, dx=1 / 20_000).item()


@pytest.mark.parametrize(("s", "factor"), [(0.5, 1.0), (0.1, 1.0), (0.5, 0.8)])
def test_denoising_loss_of_the_exact_score_is_the_bayes_error(gaussian, exact_model, s, factor):
    torch.manual_seed(0)
    x0 = 0.3 + s * torch.randn(200_000, 2)
    loss = denoising_loss(exact_model(gaussian(0.3, s), factor), x0)
    assert loss.item() == pytest.approx(bayes_error(s, factor), rel=0.01)


def test_exact_noise_prediction_is_the_gradient_of_the_log_density(gaussian):
    data = gaussian(0.3, 0.5)
    t = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    x = torch.tensor([[-0.5], [0.2], [1.5]], dtype=torch.float64, requires_grad=True)
    mean, std = data.marginal(t)
    log_density = torch.distributions.Normal(mean, std).log_prob(x.squeeze(-1)).sum()
    score = torch.autograd.grad(log_density, x)[0]
    sigma = alpha_sigma(t)[1].unsqueeze(-1)
    torch.testing.assert_close(-data.eps_hat(x.detach(), t) / sigma, score)  # method Eq. 3


def test_denoising_loss_hands_on_the_condition():
    seen = []

    def model(x_t, t, condition):
        seen.append((x_t.shape, t.shape, condition))
        return torch.zeros_like(x_t)

    torch.manual_seed(0)
    condition = torch.randn(5000, 3)
    loss = denoising_loss(model, torch.zeros(5000, 2), condition)
    assert seen[0][:2] == ((5000, 2), (5000,))
    assert seen[0][2] is condition
    assert loss.item() == pytest.approx(1, abs=0.06)  # E eps^2


def test_expectile_loss_by_hand():
    u = torch.tensor([2.0, -1.0, 0.0, -3.0])
    assert expectile_loss(u, 0.7).item() == pytest.approx((0.7 * 4 + 0.3 * 1 + 0 + 0.3 * 9) / 4)
    assert expectile_loss(u, 0.5).item() == pytest.approx(0.5 * u.square().mean().item())


def test_minimum_of_the_expectile_loss():
    x = torch.tensor([0.0, 1.0])  # v with 0.9 (1 - v) = 0.1 v
    v = torch.tensor(0.5, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(expectile_loss(x - v, 0.9), v)
        v = (v - 0.5 * gradient).detach().requires_grad_(True)
    assert v.item() == pytest.approx(0.9, abs=1e-4)


def test_contrastive_energy_loss_by_hand():
    q = torch.tensor([[0.0, math.log(3) / 2]])
    f = torch.tensor([[0.0, 0.0]])
    # softmax(2 q) = (1/4, 3/4); softmax(f) = (1/2, 1/2), then (1/5, 4/5)
    assert contrastive_energy_loss(q, f, 2.0).item() == pytest.approx(math.log(2))
    f = torch.tensor([[7.0, 7.0 + math.log(4)]])
    expected = 0.25 * math.log(5) + 0.75 * math.log(5 / 4)
    assert contrastive_energy_loss(q, f, 2.0).item() == pytest.approx(expected)
    both = contrastive_energy_loss(q.repeat(2, 1), torch.cat([torch.zeros(1, 2), f]), 2.0)
    assert both.item() == pytest.approx((math.log(2) + expected) / 2)


def test_energy_at_the_minimum_is_the_value_over_beta():
    torch.manual_seed(0)
    q = torch.randn(4, 6, dtype=torch.float64)
    constant = torch.randn(4, 1, dtype=torch.float64)  # one for every state
    f = (3 * q + constant).requires_grad_(True)  # method Eq. 9 as t -> 0
    loss = contrastive_energy_loss(q, f, 3.0)
    target = torch.softmax(3 * q, -1)
    assert loss.item() == pytest.approx(-(target * target.log()).sum(-1).mean().item())
    assert torch.autograd.grad(loss, f)[0].abs().max() < 1e-12
    for factor in (2.9, 3.1):
        assert contrastive_energy_loss(q, factor * q, 3.0) > loss
