import itertools

import pytest
import torch

from edp_robot.diffusion.schedule import T_MIN, alpha_sigma
from edp_robot.diffusion.solver import dpm_solver_pp, predict_data, time_grid

NOISE = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64).unsqueeze(-1)


def worst(data, n_denoise_steps: int, t_start: float = 1.0) -> float:
    sample = dpm_solver_pp(data.eps_hat, NOISE, n_denoise_steps, clip=None, t_start=t_start)
    return (sample - data.ode(NOISE, t_start, T_MIN)).abs().max().item()


@pytest.mark.parametrize("data", [(0.3, 0.5), (-0.8, 0.1)])
def test_solver_finds_the_exact_solution(gaussian, data):
    assert worst(gaussian(*data), 1000) < 5e-4


def test_error_falls_fourfold_when_steps_double(gaussian):
    data = gaussian(0.3, 0.5)
    ratios = [worst(data, n) / worst(data, 2 * n) for n in (200, 400, 800)]
    assert all(3.3 < r < 4.8 for r in ratios), ratios  # order 1 would give 2, order 3 would give 8


def test_solver_starts_in_between(gaussian):
    assert worst(gaussian(0.3, 0.5), 400, t_start=0.15) < 1e-4


@pytest.mark.parametrize("data", [(0.3, 0.5), (0.3, 0.2), (0.8, 0.1)])
def test_more_steps_are_better_from_the_first_on(gaussian, data):
    errors = [worst(gaussian(*data), n) for n in (5, 10, 20, 40, 80)]
    assert errors[0] > 2 * errors[1]
    assert errors[2] > 1.5 * errors[4]  # the error changes its sign in between
    assert worst(gaussian(*data), 14) < 0.04
    assert worst(gaussian(*data), 15) < 0.04


def test_samples_of_noise_have_the_moments_of_the_data(gaussian):
    torch.manual_seed(0)
    sample = dpm_solver_pp(gaussian(0.3, 0.1).eps_hat, torch.randn(20_000, 2), 60, clip=None)
    assert sample.mean().item() == pytest.approx(0.3, abs=0.005)
    assert sample.std().item() == pytest.approx(0.1, abs=0.02)


def test_one_step_by_hand(gaussian):
    data = gaussian(0.3, 0.5)
    one = torch.ones((), dtype=torch.float64)
    a1, s1 = alpha_sigma(one)
    a0, s0 = alpha_sigma(one * T_MIN)
    x0 = (NOISE - s1 * data.eps_hat(NOISE, torch.ones(11, dtype=torch.float64))) / a1
    eps = (NOISE - a1 * x0) / s1  # order 1 in data prediction is DDIM
    torch.testing.assert_close(dpm_solver_pp(data.eps_hat, NOISE, 1, clip=None), a0 * x0 + s0 * eps)


def test_point_mass_is_found_in_one_step(gaussian):
    sample = dpm_solver_pp(gaussian(0.3, 1e-6).eps_hat, NOISE, 1, clip=None)
    assert (sample - 0.3).abs().max() < 0.03  # sigma at T_MIN is 0.0105, times |noise|


def test_data_prediction_and_its_clip():
    calls = []

    def eps_fn(x, t):
        calls.append(t)
        return torch.zeros_like(x)

    x = torch.tensor([[0.1, 9.0], [-9.0, 0.2]])
    alpha = alpha_sigma(torch.tensor(0.5))[0]
    torch.testing.assert_close(predict_data(eps_fn, x, 0.5, None), x / alpha)
    torch.testing.assert_close(predict_data(eps_fn, x, 0.5, 1.0), (x / alpha).clamp(-1, 1))
    assert calls[0].tolist() == [0.5]


def test_clipped_samples_stay_in_bounds(gaussian):
    sample = dpm_solver_pp(gaussian(0.9, 0.5).eps_hat, NOISE, 15, clip=1.0)
    assert sample.abs().max() <= 1
    assert (sample == 1).any()


@pytest.mark.parametrize(("n", "t_start"), [(1, 1.0), (15, 1.0), (4, 0.15)])
def test_grid_falls_from_start_to_data_and_costs_one_call_for_each_step(gaussian, n, t_start):
    grid = time_grid(n, t_start)
    assert (len(grid), grid[0], grid[-1]) == (n + 1, pytest.approx(t_start), pytest.approx(T_MIN))
    assert all(a > b for a, b in itertools.pairwise(grid))
    calls = []

    def eps_fn(x, t):
        calls.append(t[0].item())
        return torch.zeros_like(x)

    dpm_solver_pp(eps_fn, NOISE, n, t_start=t_start)
    assert calls == pytest.approx(grid[:-1])
