"""Intrinsic rewards that count in Python, as a user's may."""

import torch

from edp_robot.methods.explore.intrinsic_reward import IntrinsicReward
from edp_robot.methods.explore.rnd import RND


class Counting(IntrinsicReward):
    """Pays what it counted."""

    n_calls = 0

    def update(self, obs):
        self.n_calls += 1
        return {"n_calls": torch.full((self.n_seeds,), float(self.n_calls))}

    def error(self, obs):
        return torch.ones(obs.shape[:-1]) * self.n_calls


class CountingRND(RND):
    """Extends a reward that may be recorded by a count."""

    n_calls = 0

    def update(self, obs):
        self.n_calls += 1
        return super().update(obs) | {"n_calls": torch.full((self.n_seeds,), float(self.n_calls))}
