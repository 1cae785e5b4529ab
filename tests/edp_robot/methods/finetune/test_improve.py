"""Method Eq. 7 on a bandit whose answer is known exactly: a Gaussian reference tilted by a linear Q stays Gaussian."""

import pytest
import torch
from torch import nn

from edp_robot.diffusion.networks import NoiseModel
from edp_robot.diffusion.schedule import alpha_sigma
from edp_robot.methods.finetune.guidance import Guidance, GuidanceConfig, guided_noise
from edp_robot.methods.finetune.improve import (
    GuidedImprovement,
    ImproveConfig,
    PolicyModels,
    Proposals,
    ResampledImprovement,
    propose,
)

STD, TEMP = 0.3, 3.0
TILTED_MEAN = TEMP * STD**2  # N(0, s^2) exp(k a) / Z = N(k s^2, s^2)


class GaussianNoise(nn.Module):
    """The exact noise model of actions N(0, STD^2)."""

    def forward(self, x, t, condition=None):
        alpha, sigma = (v.unsqueeze(-1) for v in alpha_sigma(t))
        return sigma * x / (alpha**2 * STD**2 + sigma**2)


class LinearQ:
    """Q(s, a) = a."""

    def q(self, obs, action):
        return action.squeeze(-1)


def models():
    torch.manual_seed(0)
    psi = NoiseModel(1, 1, 64, 128, 2, 0.0, "silu")
    average = NoiseModel(1, 1, 64, 128, 2, 0.0, "silu")
    average.load_state_dict(psi.state_dict())
    return PolicyModels(psi, average, GaussianNoise(), torch.optim.Adam(psi.parameters(), 3e-3))


def samples(model):
    from edp_robot.diffusion.solver import dpm_solver_pp

    obs = torch.zeros(4000, 1)
    with torch.no_grad():
        return dpm_solver_pp(lambda x, t: model(x, t, obs), torch.randn(4000, 1), 15)


def test_proposals_come_from_the_reference():
    actions = propose(
        [GaussianNoise()], torch.zeros(500, 1), LinearQ(), 1, ImproveConfig(n_proposals=16)
    ).actions
    assert actions.shape == (500, 16, 1)
    assert actions.mean().item() == pytest.approx(
        0, abs=0.02
    ) and actions.std().item() == pytest.approx(STD, abs=0.02)


def test_resampling_draws_the_tilted_gaussian():
    torch.manual_seed(0)
    proposals = propose(
        [GaussianNoise()], torch.zeros(4000, 1), LinearQ(), 1, ImproveConfig(n_proposals=64)
    )
    chosen = proposals.resample(torch.arange(4000), TEMP)
    assert chosen.mean().item() == pytest.approx(TILTED_MEAN, abs=0.03)
    assert chosen.std().item() == pytest.approx(STD, abs=0.03)


def test_resampling_by_hand():
    proposals = Proposals(
        torch.zeros(1, 1), torch.tensor([[[0.0], [1.0]]]), torch.tensor([[0.0, 1.0986123]])
    )
    chosen = proposals.resample(torch.zeros(40_000, dtype=torch.long), 1.0)
    assert chosen.mean().item() == pytest.approx(0.75, abs=0.01)  # e^{ln 3} : 1


def test_temperature_relative_to_the_spread_forgets_the_scale_of_q():
    class Scaled(LinearQ):
        def q(self, obs, action):
            return 1e3 * super().q(obs, action)

    spreads = []
    for critic in (LinearQ(), Scaled()):
        torch.manual_seed(0)
        config = ImproveConfig(n_proposals=16, relative_temp=True)
        spreads.append(
            propose([GaussianNoise()], torch.zeros(50, 1), critic, 1, config).q.std(1).mean().item()
        )
    assert spreads == pytest.approx([1.0, 1.0])


def test_resampled_improvement_learns_the_tilted_gaussian():
    made = models()
    config = ImproveConfig(n_states=2000, n_proposals=64, inverse_temp=TEMP, polyak=0.02)
    only_reference = PolicyModels(made.psi, made.average, made.reference, made.optimizer)
    made.average.forward = (
        made.reference.forward
    )  # the policy so far is the reference: one round from the start
    ResampledImprovement(1, 1, config).update(only_reference, LinearQ(), torch.zeros(2000, 1), 1200)
    del made.average.forward  # its weights are the running average of what psi learned
    drawn = samples(made.average)
    assert drawn.mean().item() == pytest.approx(TILTED_MEAN, abs=0.06)
    assert drawn.std().item() == pytest.approx(STD, abs=0.06)


def test_guidance_learns_the_energy_of_the_tilted_gaussian():
    """f = k E[a_0 | a_t] + const is linear in a_t, with slope k alpha s^2 / (alpha^2 s^2 + sigma^2)."""
    torch.manual_seed(0)
    guidance = Guidance(1, 1, GuidanceConfig(width=64, n_layers=2, learning_rate=3e-3))
    obs = torch.zeros(128, 1)
    for _ in range(1500):
        actions = STD * torch.randn(128, 16, 1)
        guidance.update(obs, actions, actions.squeeze(-1), TEMP)
    t = torch.full((64,), 0.3)
    alpha, sigma = alpha_sigma(t[:1])
    a_t = torch.linspace(-0.5, 0.5, 64).unsqueeze(-1)
    slope = guidance.gradient(torch.zeros(64, 1), a_t, t).mean().item()
    expected = (TEMP * alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)).item()
    assert slope == pytest.approx(expected, rel=0.15)
    exact = sigma * a_t / (alpha**2 * STD**2 + sigma**2) - sigma * expected
    got = guided_noise(GaussianNoise(), guidance, torch.zeros(64, 1), a_t, t)
    assert (got - exact).abs().mean().item() < 0.1


def test_guided_improvement_learns_the_tilted_gaussian():
    made = models()
    config = ImproveConfig(
        n_proposals=32,
        inverse_temp=TEMP,
        guidance=GuidanceConfig(width=64, n_layers=2, learning_rate=3e-3),
    )
    GuidedImprovement(1, 1, config).update(made, LinearQ(), torch.zeros(1024, 1), 800)
    drawn = samples(made.average)
    assert drawn.mean().item() == pytest.approx(TILTED_MEAN, abs=0.08)
    assert drawn.std().item() == pytest.approx(STD, abs=0.06)
