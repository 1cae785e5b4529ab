import math

import pytest
import torch

from edp_robot.methods.explore.particle import Particle
from edp_robot.methods.explore.rnd import RND


def seen(n):
    return torch.tensor([-0.5, -0.5]) + 0.1 * torch.randn(1, n, 2)


def unseen(n):
    return torch.tensor([0.6, 0.4]) + 0.1 * torch.randn(1, n, 2)


@pytest.mark.parametrize(
    "make", [lambda: RND(2, learning_rate=1e-3), lambda: Particle(2)], ids=["rnd", "particle"]
)
def test_unseen_states_pay_more(make):
    torch.manual_seed(0)
    intrinsic = make()
    for _ in range(150):
        intrinsic.update(seen(128))
    rewards = intrinsic.reward(torch.cat([seen(100), unseen(100)], 1))[0]
    assert rewards[100:].min() > rewards[:100].max()


def test_rnd_is_the_squared_difference_of_two_networks_a_dimension():
    torch.manual_seed(0)
    rnd, obs = RND(3, n_seeds=2, width=8, out_dim=5), torch.randn(2, 4, 3)
    expected = (rnd.predictor(obs) - rnd.target(obs)).pow(2).sum(-1) / 5
    torch.testing.assert_close(rnd.error(obs), expected.detach())


def test_rnd_learns_its_target_and_leaves_it_alone():
    torch.manual_seed(0)
    rnd = RND(2, learning_rate=1e-3)
    target = [p.clone() for p in rnd.target.parameters()]
    losses = [rnd.update(seen(64))["rnd_loss"].item() for _ in range(200)]
    assert losses[-1] < 0.1 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(target, rnd.target.parameters(), strict=True))


def test_particle_by_hand():
    """Particles 0, 1, 3, 7 on a line, the nearest left out: from 0, 1 and 3 count; from 4, 1 and 7."""
    particle = Particle(1, n_neighbours=2, n_particles=8)
    particle.update(torch.tensor([[[0.0], [1.0], [3.0], [7.0]]]))
    got = particle.error(torch.tensor([[[0.0], [4.0]]]))
    expected = [(math.log(2) + math.log(4)) / 2, (math.log(4) + math.log(4)) / 2]
    torch.testing.assert_close(got, torch.tensor([expected]))


def test_particles_are_a_ring():
    particle = Particle(1, n_neighbours=1, n_particles=4)
    for first in (0.0, 3.0):
        particle.update(first + torch.arange(3.0).reshape(1, 3, 1))
    assert sorted(particle.ring.states.flatten().tolist()) == [2.0, 3.0, 4.0, 5.0]


def test_too_few_particles_pay_nothing():
    particle = Particle(1, n_neighbours=3)
    particle.update(torch.zeros(1, 3, 1))
    assert particle.error(torch.ones(1, 5, 1)).tolist() == [[0.0] * 5]


@pytest.mark.parametrize("n", [0, 8])
def test_neighbours_that_cannot_be_are_refused(n):
    with pytest.raises(
        ValueError, match=f"n_neighbours={n}: give a number from 1 to n_particles - 1 = 7"
    ):
        Particle(1, n_neighbours=n, n_particles=8)
