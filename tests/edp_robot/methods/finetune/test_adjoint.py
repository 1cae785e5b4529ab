"""Adjoint matching on a Gaussian with linear and quadratic Q, whose tilted law is known."""

import math

import pytest
import torch
from support.bandit import STD, GaussianNoise, bandit, samples

from edp_robot.methods.finetune.adjoint import (
    AdjointTuner,
    BudgetTuner,
    adjoints,
    chain,
    simulate,
    step_mean,
)


def test_the_chain_draws_the_gaussian():
    drawn = simulate(GaussianNoise(0.2, 0.1), torch.zeros(20_000, 1), 1, chain(200))[-1]
    assert drawn.mean().item() == pytest.approx(0.2, abs=0.005)
    assert drawn.std().item() == pytest.approx(0.1, abs=0.005)


def test_two_steps_of_the_adjoint_by_hand():
    """Each of the reference's steps is linear, so a = (dm / dx) a' with a constant slope."""
    steps = chain(3)
    reference = GaussianNoise()
    obs = torch.zeros(2, 1)
    path = simulate(reference, obs, 1, steps)

    def derivative(step):
        ends = [step_mean(reference, obs, torch.full((2, 1), x), step) for x in (0.01, -0.01)]
        return (ends[0] - ends[1])[0].item() / 0.02

    got = adjoints(reference, obs, path, torch.full((2, 1), 3.0), steps)
    last = 3.0 * derivative(steps[2])
    middle = last * derivative(steps[1])
    expected = [middle * derivative(steps[0]), middle, last]
    assert [a[0].item() for a in got] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n_steps", [4, 40])
def test_a_linear_q_gives_the_exact_target_with_any_number_of_steps(n_steps):
    """N(0, s^2) exp(k a) is N(k s^2, s^2)."""
    tuner = bandit(AdjointTuner, inverse_temp=2.0, n_chain_steps=n_steps)
    obs = torch.zeros(64, 1)
    path = simulate(tuner.reference, obs, 1, tuner.steps)
    carried = adjoints(tuner.reference, obs, path, torch.ones(64, 1), tuner.steps)
    _, x, t, eps = tuner.targets(obs, path, carried)
    inside = (x.abs() < 3).squeeze(-1)  # where no data prediction is clipped
    expected = GaussianNoise(2 * STD**2)(x, t)
    assert (eps - expected)[inside].abs().max() < 1e-3


def test_the_kl_of_the_paths_is_that_of_the_actions():
    """KL(N(k s^2, s^2) || N(0, s^2)) = k^2 s^2 / 2."""
    tuner = bandit(AdjointTuner, n_chain_steps=60)
    tuner.psi_average = GaussianNoise(2 * STD**2)
    obs = torch.zeros(4, 1)
    path = simulate(tuner.psi_average, obs, 1, tuner.steps)
    assert tuner.path_kl(obs, path).mean().item() == pytest.approx(2 * STD**2, rel=0.03)


@pytest.mark.parametrize(("slope", "curve"), [(1.5, 0.0), (1.5, 4.0), (0.0, -3.0)])
def test_the_optimum_is_a_fixed_point(slope, curve):
    """Along the optimum's own paths, the targets' mean given x is the optimum's noise model.

    The optimum of N(0, s^2) exp(slope a - curve a^2 / 2) is Gaussian with precision
    1 / s^2 + curve and mean slope / precision. All is linear in x, so a line is fitted to the
    targets of each step.
    """
    tuner = bandit(AdjointTuner, slope, curve, inverse_temp=1.0, n_chain_steps=150)
    precision = 1 / STD**2 + curve
    optimum = GaussianNoise(slope / precision, precision**-0.5)
    obs = torch.zeros(20_000, 1)
    path = simulate(optimum, obs, 1, tuner.steps)
    carried = adjoints(tuner.reference, obs, path, tuner.iql.slope(obs, path[-1]), tuner.steps)
    _, x, t, eps = tuner.targets(obs, path, carried)
    shape = (len(tuner.steps), len(obs))
    for i in (40, 80, 110, 130, 140):
        at = x.reshape(shape)[i].double()
        line = torch.stack([torch.ones_like(at), at], 1)
        fitted = torch.linalg.lstsq(line, eps.reshape(shape)[i].double()).solution
        probe = torch.tensor([[at.mean() - at.std()], [at.mean() + at.std()]]).float()
        time = t.reshape(shape)[i, :1]
        expected = optimum(probe, time)
        assert fitted[0] + fitted[1] * probe.double() == pytest.approx(expected.double(), abs=0.02)


def trained(tuner, rounds=20, n=30):
    for _ in range(rounds):
        tuner.begin_round(torch.zeros(512, 1))
        tuner.improve(torch.zeros(512, 1), n)
    return samples(tuner.psi_average)


def started(tuner, **options):
    """Returns a bandit's tuner whose psi is a fit of the reference."""
    made = bandit(tuner, polyak=0.05, **options)
    made.fit(torch.zeros(2560, 1), STD * torch.randn(2560, 1), 250)
    return made


def test_it_learns_the_tilted_gaussian():
    drawn = trained(started(AdjointTuner, inverse_temp=3.0))
    assert drawn.mean().item() == pytest.approx(3 * STD**2, abs=0.05)
    assert drawn.std().item() == pytest.approx(STD, abs=0.05)


def test_a_budget_decides_the_temperature():
    """KL(N(k s^2, s^2) || N(0, s^2)) = k^2 s^2 / 2, so the mean is s sqrt(2 KL) at any slope."""
    tuner = started(BudgetTuner, slope=50.0, target_kl=0.5)
    drawn = trained(tuner)
    assert drawn.mean().item() == pytest.approx(STD, abs=0.06)
    assert tuner.inverse_temp.item() == pytest.approx(math.sqrt(2 * 0.5) / STD / 50, rel=0.1)
    assert tuner.kl.item() == pytest.approx(0.5, abs=0.15)
