import pytest
import torch

from edp_robot.deploy.policies import BestOfK
from edp_robot.diffusion.networks import Normaliser


class Echo(torch.nn.Module):
    """Answers its noise."""

    latent_dim = 1

    def forward(self, obs, noise):
        return noise


class Tent(torch.nn.Module):
    """Q(a) = min(a, 2 - a), which is largest at 1."""

    def forward(self, obs, action):
        return torch.stack([action.squeeze(-1), 2 - action.squeeze(-1)])


def best_of(k):
    return BestOfK(Echo(), Normaliser(torch.zeros(2), torch.ones(2)), Tent(), k)


def test_best_of_k_answers_what_the_critic_values_most():
    best = best_of(3)
    noise = torch.tensor([[0.1, 0.8, 1.9], [1.3, -1.0, 0.6]])
    assert best.latent_dim == 3
    torch.testing.assert_close(best(torch.zeros(2, 2), noise), torch.tensor([[0.8], [1.3]]))


def test_best_of_one_is_refused():
    with pytest.raises(ValueError, match="best of 1: give 2 or more"):
        best_of(1)
