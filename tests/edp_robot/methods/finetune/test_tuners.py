"""Method Eq. 7 on a bandit with a known answer: a Gaussian reference tilted by a linear Q."""

import pytest
import torch
from support.bandit import MODEL, STD, GaussianNoise, bandit, samples
from support.tiny import plain_spec

from edp_robot.diffusion.schedule import alpha_sigma
from edp_robot.methods.finetune.fine_tuner import tuner_class
from edp_robot.methods.finetune.guidance import (
    Guidance,
    GuidanceConfig,
    GuidedConfig,
    GuidedTuner,
    guided_noise,
)
from edp_robot.methods.finetune.proposals import Proposals, ProposalTuner
from edp_robot.methods.finetune.resampling import Resampling, ResamplingConfig

TEMP = 3.0
TILTED_MEAN = TEMP * STD**2  # N(0, s^2) exp(k a) / Z = N(k s^2, s^2)


def proposed(n_states, slope=1.0, **options):
    tuner = bandit(ProposalTuner, slope, **options)
    return tuner.propose([tuner.reference], torch.zeros(n_states, 1))


def test_proposals_come_from_the_reference():
    actions = proposed(500, n_proposals=16).actions
    assert actions.shape == (500, 16, 1)
    assert actions.mean().item() == pytest.approx(0, abs=0.02)
    assert actions.std().item() == pytest.approx(STD, abs=0.02)


def test_resampling_draws_the_tilted_gaussian():
    chosen = proposed(4000, n_proposals=64).resample(torch.arange(4000), TEMP)
    assert chosen.mean().item() == pytest.approx(TILTED_MEAN, abs=0.03)
    assert chosen.std().item() == pytest.approx(STD, abs=0.03)


def test_resampling_by_hand():
    actions = torch.tensor([[[0.0], [1.0]]])
    proposals = Proposals(torch.zeros(1, 1), actions, torch.tensor([[0.0, 1.0986123]]))
    chosen = proposals.resample(torch.zeros(40_000, dtype=torch.long), 1.0)
    assert chosen.mean().item() == pytest.approx(0.75, abs=0.01)  # e^{ln 3} : 1


def test_temperature_relative_to_the_spread_forgets_the_scale_of_q():
    options = {"n_proposals": 16, "relative_temp": True}
    spreads = [proposed(50, slope, **options).spread() for slope in (1.0, 1e3)]
    assert spreads == pytest.approx([1.0, 1.0])


def test_resampling_learns_the_tilted_gaussian():
    options = {"n_proposals": 64, "inverse_temp": TEMP, "polyak": 0.02}
    tuner = bandit(Resampling, **options)
    # One round from the start, where the policy so far is the reference.
    tuner.psi_average.forward = tuner.reference.forward
    tuner.improve(torch.zeros(2000, 1), 1200)
    del tuner.psi_average.forward  # its weights are the running average of what psi learned
    drawn = samples(tuner.psi_average)
    assert drawn.mean().item() == pytest.approx(TILTED_MEAN, abs=0.06)
    assert drawn.std().item() == pytest.approx(STD, abs=0.06)


SMALL_GUIDANCE = GuidanceConfig(width=64, n_layers=2, learning_rate=3e-3)


def test_guidance_learns_the_energy_of_the_tilted_gaussian():
    """f = k E[a_0 | a_t] + const is linear, with slope k alpha s^2 / (alpha^2 s^2 + sigma^2)."""
    guidance = bandit(GuidedTuner, guidance=SMALL_GUIDANCE).guidance
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


def test_guidance_learns_the_gradient_on_a_mixture():
    """Two modes N(+-c, s^2), tilted by exp(k a), are two modes N(+-c + k s^2, s^2) with weights
    e^(+-k c). The guidance's gradient is the difference of the noised mixtures' scores.
    """
    torch.manual_seed(0)
    centre = 0.5
    std = 0.15
    guidance = Guidance(1, 1, GuidanceConfig(width=64, n_layers=2))
    obs = torch.zeros(128, 1)
    for step in range(800):
        side = torch.randint(2, (128, 16, 1)) * 2 - 1
        actions = centre * side + std * torch.randn(128, 16, 1)
        guidance.optimizer.set_rate(5e-3 * (1 - step / 800))
        guidance.update(obs, actions, actions.squeeze(-1), TEMP)
    t = torch.full((41,), 0.2)
    alpha, sigma = (value[0] for value in alpha_sigma(t))
    a_t = torch.linspace(-0.6, 0.6, 41).unsqueeze(-1)

    def score(means, log_weights):
        variance = alpha**2 * std**2 + sigma**2
        apart = alpha * means - a_t
        share = torch.softmax(log_weights - apart.square() / (2 * variance), -1)
        return (share * apart).sum(-1, keepdim=True) / variance

    modes = torch.tensor([[-centre, centre]])
    expected = score(modes + TEMP * std**2, TEMP * modes) - score(modes, torch.zeros(1, 2))
    got = guidance.gradient(torch.zeros(41, 1), a_t, t)
    assert expected.min() < 0.6 * expected.max()  # so that no constant passes
    assert (got - expected).abs().mean() < 0.1 * expected.max()


def test_guided_improvement_learns_the_tilted_gaussian():
    options = {"n_proposals": 32, "inverse_temp": TEMP, "guidance": SMALL_GUIDANCE}
    tuner = bandit(GuidedTuner, **options)
    tuner.improve(torch.zeros(1024, 1), 800)
    drawn = samples(tuner.psi_average)
    assert drawn.mean().item() == pytest.approx(TILTED_MEAN, abs=0.08)
    assert drawn.std().item() == pytest.approx(STD, abs=0.06)


def test_an_older_checkpoint_of_the_guidance_loads():
    tuner = GuidedTuner(plain_spec(1, 1), GuidedConfig(MODEL, guidance=SMALL_GUIDANCE))
    saved = tuner.state()
    renamed = {
        f"improvement.{name}" if name.startswith("guidance.") else name: weight
        for name, weight in saved["model"].items()
    }
    tuner.load({**saved, "model": renamed})
    dropped = {name: w for name, w in renamed.items() if not name.startswith("improvement.")}
    with pytest.raises(RuntimeError, match=r"guidance\.net"):
        tuner.load({**saved, "model": dropped})


@pytest.mark.parametrize(
    ("n_uniform", "said"), [(-1, "must be at least 0"), (31, "give 0 to n_proposals - 2 = 30")]
)
def test_uniform_proposals_leave_room_for_both_policies(n_uniform, said):
    with pytest.raises(ValueError, match=f"n_uniform={n_uniform}: {said}"):
        ResamplingConfig(n_uniform=n_uniform)


def test_an_unknown_fine_tuner_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"no fine-tuner 'ddgp'.*'ddpg'.*ddpg, dipo, dql, edp, "):
        tuner_class("ddgp")
    with pytest.raises(ValueError, match=r"expected a class that extends .*FineTuner"):
        tuner_class("support.tiny:plain_spec")
