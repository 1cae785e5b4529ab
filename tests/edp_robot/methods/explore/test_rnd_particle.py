import math

import pytest
import torch
from support.tiny import plain_spec

from edp_robot.methods.explore.particle import Particle, ParticleConfig
from edp_robot.methods.explore.rnd import RND, RNDConfig


def rnd(obs_dim=2, n_seeds=1, **options) -> RND:
    return RND(plain_spec(obs_dim), RNDConfig(**options), n_seeds=n_seeds)


def particle(obs_dim=2, **options) -> Particle:
    return Particle(plain_spec(obs_dim), ParticleConfig(**options))


def seen(n):
    return torch.tensor([-0.5, -0.5]) + 0.1 * torch.randn(1, n, 2)


def unseen(n):
    return torch.tensor([0.6, 0.4]) + 0.1 * torch.randn(1, n, 2)


@pytest.mark.parametrize(("make", "options"), [(rnd, {"learning_rate": 1e-3}), (particle, {})])
def test_unseen_states_pay_more(make, options):
    torch.manual_seed(0)
    intrinsic = make(**options)
    for _ in range(150):
        intrinsic.update(seen(128))
    rewards = intrinsic.reward(torch.cat([seen(100), unseen(100)], 1))[0]
    assert rewards[100:].min() > rewards[:100].max()


def test_rnd_is_the_squared_difference_of_two_networks_a_dimension():
    torch.manual_seed(0)
    intrinsic = rnd(3, n_seeds=2, width=8, out_dim=5)
    obs = torch.randn(2, 4, 3)
    expected = (intrinsic.predictor(obs) - intrinsic.target(obs)).pow(2).sum(-1) / 5
    torch.testing.assert_close(intrinsic.error(obs), expected.detach())


def test_rnd_learns_its_target_and_leaves_it_alone():
    torch.manual_seed(0)
    intrinsic = rnd(learning_rate=1e-3)
    target = [p.clone() for p in intrinsic.target.parameters()]
    losses = [intrinsic.update(seen(64))["rnd_loss"].item() for _ in range(200)]
    assert losses[-1] < 0.1 * losses[0]
    pairs = zip(target, intrinsic.target.parameters(), strict=True)
    assert all(torch.equal(before, after) for before, after in pairs)


def test_particle_by_hand():
    """Particles lie at 0, 1, 3, 7. Without the nearest, 0 counts 1 and 3, and 4 counts 1 and 7."""
    intrinsic = particle(1, n_neighbours=2, n_particles=8)
    intrinsic.update(torch.tensor([[[0.0], [1.0], [3.0], [7.0]]]))
    got = intrinsic.error(torch.tensor([[[0.0], [4.0]]]))
    expected = [(math.log(2) + math.log(4)) / 2, (math.log(4) + math.log(4)) / 2]
    torch.testing.assert_close(got, torch.tensor([expected]))


def test_particles_are_a_ring():
    intrinsic = particle(1, n_neighbours=1, n_particles=4)
    for first in (0.0, 3.0):
        intrinsic.update(first + torch.arange(3.0).reshape(1, 3, 1))
    assert sorted(intrinsic.ring.states.flatten().tolist()) == [2.0, 3.0, 4.0, 5.0]


def test_too_few_particles_pay_nothing():
    intrinsic = particle(1, n_neighbours=3)
    intrinsic.update(torch.zeros(1, 3, 1))
    assert intrinsic.error(torch.ones(1, 5, 1)).tolist() == [[0.0] * 5]


@pytest.mark.parametrize("n", [0, 8])
def test_neighbours_that_cannot_be_are_refused(n):
    with pytest.raises(
        ValueError, match=f"n_neighbours={n}: give a number from 1 to n_particles - 1 = 7"
    ):
        particle(1, n_neighbours=n, n_particles=8)


@pytest.mark.parametrize("make", [rnd, particle])
def test_only_the_named_fields_count_as_new(make):
    torch.manual_seed(0)
    intrinsic = make(3, fields=("x2", "x0"))
    intrinsic.update(torch.randn(1, 64, 3))
    obs = torch.randn(1, 8, 3)
    other = obs.clone()
    other[..., 1] += 100.0
    torch.testing.assert_close(intrinsic.error(obs), intrinsic.error(other))
    other[..., 2] += 100.0
    assert (intrinsic.error(other) > 2 * intrinsic.error(obs)).all()


def test_a_field_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no obs field or number 'hand'.*x0, x1"):
        particle(2, fields=("hand",))
