"""The other fine-tuners on the bandit: what each makes of N(0, STD^2) and a linear Q."""

import pytest
import torch
from support.bandit import STD, GaussianNoise, bandit, samples
from support.tiny import plain_spec

from edp_robot.deploy.policies import BestOfK
from edp_robot.diffusion.schedule import alpha_sigma
from edp_robot.methods.finetune.dipo import ClimbTuner
from edp_robot.methods.finetune.dql import ThroughTuner
from edp_robot.methods.finetune.edp import SoftConfig, SoftTuner
from edp_robot.methods.finetune.idql import ImplicitTuner
from edp_robot.methods.finetune.onestep import OneStepConfig, OneStepTuner
from edp_robot.methods.finetune.qsm import SlopeTuner
from edp_robot.methods.replay import Batch, Replay


def seen(n=2560):
    """Returns transitions whose actions are pi_d's."""
    zeros = torch.zeros(n, 1)
    ones = torch.ones(n, 1)
    actions = STD * torch.randn(n, 1)
    return Batch(zeros, actions, zeros.unsqueeze(1), zeros, ones, ones[:, 0])


def test_edp_learns_the_tilted_gaussian_at_its_kl():
    """KL(N(k s^2, s^2) || N(0, s^2)) = k^2 s^2 / 2, so the mean is s sqrt(2 KL) at any slope."""
    tuner = bandit(SoftTuner, slope=50.0, n_proposals=32, target_kl=0.5, polyak=0.03)
    obs = torch.zeros(2000, 1)
    tuner.begin_round(obs)
    metrics = tuner.improve(obs, 500)
    drawn = samples(tuner.psi_average)
    assert metrics["kl"].item() == pytest.approx(0.5, abs=0.01)
    assert drawn.mean().item() == pytest.approx(STD, abs=0.06)
    assert drawn.std().item() == pytest.approx(STD, abs=0.06)


def test_with_a_fixed_temperature_edp_keeps_it():
    tuner = bandit(SoftTuner, slope=1.0, n_proposals=64, target_kl=0.0, inverse_temp=3.0)
    tuner.begin_round(torch.zeros(2000, 1))
    chosen = tuner.support.resample(torch.arange(2000), float(tuner.inverse_temp))
    assert tuner.inverse_temp.item() == 3.0
    assert chosen.mean().item() == pytest.approx(3 * STD**2, abs=0.03)


def test_edp_values_states_softly():
    """V -> beta log E exp(Q / beta) = beta k^2 s^2 / 2 with k = slope / beta; E[Q] = 0."""
    tuner = SoftTuner(plain_spec(1, 1), SoftConfig(n_proposals=64, target_kl=0.0, inverse_temp=5.0))
    tuner.reference = GaussianNoise()
    tuner.iql.q = lambda obs, action: action.squeeze(-1)
    tuner.iql.optimizer.set_rate(3e-3)
    parts = tuner.begin_round(torch.zeros(512, 1))
    batch = seen(64)
    for i in range(300):
        tuner._critic_once(*vars(batch).values(), *parts[i % len(parts)])
    assert tuner.iql.value(torch.zeros(1, 1)).item() == pytest.approx(5 * STD**2 / 2, abs=0.02)


def test_a_kl_beyond_the_proposals_is_refused():
    with pytest.raises(ValueError, match=r"target_kl=3: give less than log\(n_proposals\) = 2.77"):
        SoftConfig(n_proposals=16, target_kl=3.0)


def test_idql_imitates_and_chooses_the_best_of_four():
    """The mean of the largest of four normal draws is 1.0294."""
    tuner = bandit(ImplicitTuner, polyak=0.03)
    tuner.improve_on(seen(), 400)
    assert samples(tuner.psi_average).mean().item() == pytest.approx(0, abs=0.05)
    tuner.policy = tuner.make_policy(15)
    assert isinstance(tuner.policy, BestOfK)
    chosen = tuner.act(torch.zeros(4000, 1).numpy())
    assert chosen.mean() == pytest.approx(1.0294 * STD, abs=0.06)


@pytest.mark.parametrize(("eta", "low", "high"), [(0.0, -0.06, 0.06), (0.05, 0.1, 1.0)])
def test_dql_climbs_q_through_the_sampler(eta, low, high):
    tuner = bandit(ThroughTuner, eta=eta, polyak=0.05, policy_batch=64)
    tuner.improve_on(seen(), 200)
    assert low < samples(tuner.psi_average).mean().item() < high


def test_qsm_takes_the_slope_of_q_for_the_score():
    tuner = bandit(SlopeTuner, slope=0.2, slope_scale=10.0)
    tuner.improve_on(seen(), 400)
    t = torch.linspace(0.05, 0.95, 16)
    eps = tuner.psi(torch.zeros(16, 1), t, torch.zeros(16, 1)).detach().squeeze(-1)
    assert eps.numpy() == pytest.approx((-2.0 * alpha_sigma(t)[1]).numpy(), abs=0.1)


def test_dipo_climbs_twenty_steps_of_adam():
    """Where the slope is constant, each step of Adam has the length of its rate."""
    tuner = bandit(ClimbTuner, slope=-7.0)
    climbed = tuner.climb(torch.zeros(3, 1), torch.tensor([[0.0], [0.5], [-0.9]]))
    assert climbed.squeeze(-1).tolist() == pytest.approx([-0.6, -0.1, -1.0], abs=1e-4)


def test_dipo_imitates_where_the_actions_end():
    tuner = bandit(ClimbTuner, slope=1.0, n_climbs=10, polyak=0.02)
    tuner.improve_on(seen(), 400)
    assert samples(tuner.psi_average).mean().item() == pytest.approx(0.3, abs=0.06)


SIZES = {"width": 32, "learning_rate": 3e-3, "pre_tanh_penalty": 0.0, "n_step": 1}


def held(slope=1.0, **options):
    """Returns a one-step tuner with the bandit's reference and critic, and a replay for it."""
    torch.manual_seed(0)
    tuner = OneStepTuner(plain_spec(1, 1), OneStepConfig(**SIZES, **options))
    tuner.reference = GaussianNoise()
    tuner.held.fill_(1)
    tuner.ddpg.critic.forward = lambda obs, action: slope * action.squeeze(-1).expand(2, -1)
    tuner.ddpg.update_critic = lambda batch, reward: torch.zeros(())
    replay = Replay(400, 4, 1, 1, 0)
    zeros = torch.zeros(4, 1).numpy()
    for _ in range(100):
        replay.add(zeros, zeros, zeros[:, 0], zeros, zeros[:, 0], zeros[:, 0])
    return tuner, replay


def drawn(tuner):
    noise = torch.randn(4000, 1)
    return tuner.policy(torch.zeros(4000, 1), noise).detach(), STD * noise


def test_onestep_starts_as_the_reference():
    tuner, replay = held(imitation_steps=600)
    tuner._imitate(replay)
    action, reference = drawn(tuner)
    assert (action - reference).square().mean().sqrt().item() < 0.03


@pytest.mark.parametrize("slope", [0.1, 100.0])
def test_onestep_moves_up_q_by_a_share_of_the_references_spread(slope):
    """A linear Q moves all actions alike, so the root mean square is the shift.

    Two draws of N(0, s^2) are sqrt(2) s apart.
    """
    tuner, replay = held(slope, distance_share=0.5, imitation_steps=300)
    for _ in range(16):
        tuner.update(replay, 50, 0.0)
    action, reference = drawn(tuner)
    shift = action - reference
    assert tuner.spread.item() == pytest.approx(2**0.5 * STD, abs=0.03)
    assert shift.mean().item() == pytest.approx(0.5 * 2**0.5 * STD, abs=0.05)
    assert shift.std().item() < 0.1


def test_onestep_answers_the_best_of_its_draws():
    """The mean of the largest of four normal draws is 1.0294."""
    tuner, replay = held(imitation_steps=600, best_of=4)
    tuner.ddpg.critic_target.forward = tuner.ddpg.critic.forward
    tuner._imitate(replay)
    action = tuner.policy(torch.zeros(4000, 1), torch.randn(4000, 4)).detach()
    assert action.mean().item() == pytest.approx(1.0294 * STD, abs=0.03)
    near = tuner.act(torch.zeros(4000, 1).numpy())
    assert near.mean() == pytest.approx(1.0294 * STD, abs=0.05)


def test_onestep_without_a_reference_only_climbs():
    tuner, replay = held()
    tuner.held.fill_(0)
    for _ in range(6):
        tuner.update(replay, 50, 0.0)
    assert drawn(tuner)[0].mean().item() > 0.9
    assert tuner.weight.item() == 1
