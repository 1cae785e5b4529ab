"""A bandit with a known answer: actions N(0, STD^2) of pi_d, tilted by a linear Q."""

import torch
from support.tiny import plain_spec
from torch import nn

from edp_robot.diffusion.schedule import alpha_sigma
from edp_robot.diffusion.solver import dpm_solver_pp
from edp_robot.methods.models import NoiseModelConfig

STD = 0.3
MODEL = NoiseModelConfig(64, 128, 2, 0.0, learning_rate=3e-3, activation="silu")


class GaussianNoise(nn.Module):
    """The exact noise model of actions N(mean, std^2)."""

    def __init__(self, mean=0.0, std=STD):
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, x, t, condition=None):
        alpha, sigma = (v.unsqueeze(-1) for v in alpha_sigma(t))
        return sigma * (x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)


class QuadraticQ(nn.Module):
    """Q(s, a) = slope a - curve a^2 / 2."""

    def __init__(self, slope=1.0, curve=0.0):
        super().__init__()
        self.linear = slope
        self.curve = curve

    def q(self, obs, action):
        a = action.squeeze(-1)
        return self.linear * a - self.curve * a.square() / 2

    def slope(self, obs, action):
        return self.linear - self.curve * action

    def forward(self, obs, action):
        """Both critics' values (2, batch)."""
        return torch.stack([self.q(obs, action)] * 2)

    critic = critic_target = forward


def bandit(tuner, slope=1.0, curve=0.0, **options):
    """Returns a tuner with the exact reference and critic of the bandit."""
    torch.manual_seed(0)
    made = tuner(plain_spec(1, 1), tuner.Config(action_model=MODEL, **options))
    made.reference = GaussianNoise()
    made.iql = QuadraticQ(slope, curve)
    return made


def samples(model, n=4000):
    """Returns actions (n, 1) of a noise model."""
    obs = torch.zeros(n, 1)
    with torch.no_grad():
        return dpm_solver_pp(lambda x, t: model(x, t, obs), torch.randn(n, 1), 15)
