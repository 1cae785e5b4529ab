import math

import pytest
import torch

from edp_robot.diffusion.schedule import (
    T_MIN,
    add_noise,
    alpha_sigma,
    half_log_snr,
    log_alpha,
    sample_t,
    scalar_coefficients,
    t_of_half_log_snr,
)

TIMES = torch.linspace(T_MIN, 1, 101, dtype=torch.float64)


def test_alpha_at_half_time_by_hand():
    # -(0.25)(19.9)/4 - 0.5 * 0.1/2 = -1.24375 - 0.025
    assert log_alpha(torch.tensor(0.5)).item() == pytest.approx(-1.26875)
    alpha, sigma = alpha_sigma(torch.tensor(0.5, dtype=torch.float64))
    assert alpha.item() == pytest.approx(0.281182, abs=1e-6)
    assert sigma.item() == pytest.approx(0.959654, abs=1e-6)


def test_noise_at_both_ends():
    alpha, sigma = alpha_sigma(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert alpha[1].item() == pytest.approx(math.exp(-5.025))  # -19.9/4 - 0.05


def test_variance_is_preserved():
    alpha, sigma = alpha_sigma(TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(TIMES))


def test_sigma_is_exact_near_data_in_float32():
    sigma = alpha_sigma(torch.tensor(1e-4))[1].item()
    log_a = -1e-8 * 19.9 / 4 - 1e-4 * 0.05
    assert sigma == pytest.approx(math.sqrt(1 - math.exp(2 * log_a)), rel=1e-5)


def test_half_log_snr_falls_and_has_an_inverse():
    lam = half_log_snr(TIMES)
    assert (lam.diff() < 0).all()
    alpha, sigma = alpha_sigma(TIMES)
    torch.testing.assert_close(2 * lam, (alpha**2 / sigma**2).log())  # method Eq. 3
    torch.testing.assert_close(t_of_half_log_snr(lam), TIMES, rtol=1e-9, atol=0)


@pytest.mark.parametrize("t", [T_MIN, 0.1, 0.5, 1.0])
def test_scalars_agree_with_tensors(t):
    exact = torch.tensor(t, dtype=torch.float64)
    expected = (*(x.item() for x in alpha_sigma(exact)), half_log_snr(exact).item())
    assert scalar_coefficients(t) == pytest.approx(expected, rel=1e-12)


def test_add_noise_by_hand_with_a_time_for_each_row():
    x0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    eps = torch.tensor([[0.5, -1.0], [1.0, 0.0]])
    expected = torch.tensor([[0.281182 + 0.959654 * 0.5, 0.562364 - 0.959654], [3.0, 4.0]])
    x_t = add_noise(x0, eps, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(x_t, expected, atol=1e-5, rtol=0)


def test_noised_gaussian_data_has_the_closed_form_moments():
    torch.manual_seed(0)
    n = 200_000
    m = 0.7
    s = 0.4
    t = 0.3
    x_t = add_noise(m + s * torch.randn(n, 1), torch.randn(n, 1), torch.full((n,), t))
    alpha, sigma, _ = scalar_coefficients(t)
    std = math.sqrt(alpha**2 * s**2 + sigma**2)
    assert x_t.mean().item() == pytest.approx(alpha * m, abs=4 * std / math.sqrt(n))
    assert x_t.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * n))


@pytest.mark.parametrize(("n", "low", "high"), [(1, T_MIN, 1.0), (7, 0.05, 0.6), (256, T_MIN, 1.0)])
def test_sampled_times_fall_one_in_each_bin(n, low, high):
    torch.manual_seed(0)
    for _ in range(20):
        t = sample_t(n, low=low, high=high)
        bins = ((t - low) / (high - low) * n).long().clamp(max=n - 1)
        assert sorted(bins.tolist()) == list(range(n))


def test_sampled_times_are_shuffled_and_uniform():
    torch.manual_seed(0)
    t = torch.stack([sample_t(8, low=0, high=1) for _ in range(4000)])
    every_bin = 4 * math.sqrt(1 / 12 / 4000)  # each place gets all bins over time
    assert (t.mean(0) - 0.5).abs().max() < every_bin
    assert (t.std(0) - math.sqrt(1 / 12)).abs().max() < 0.02
