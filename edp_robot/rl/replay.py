"""Replay of transitions in arrays, time-major, so that n-step sums follow each environment's own path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Transitions with their n-step future: tensors of `batch` rows.

    obs (batch, obs_dim); action (batch, act_dim); next_obs (batch, n_step, obs_dim): s_1 ... s_n; reward (batch,
    n_step): r_1 ... r_n; valid (batch, n_step): 1 while the episode goes on, 0 after its end; terminated (batch,):
    1 if it ended in a terminal state within n.
    """

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor
    valid: Tensor
    terminated: Tensor

    def n_step_return(self, reward: Tensor, discount: float) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (sum of discounted rewards (batch,), bootstrap obs (batch, obs_dim), bootstrap factor (batch,)).

        The factor is discount^n with the n that the episode really lasted, 0 after a terminal state (the authors'
        code uses discount^1, method section 4).
        """
        n_step = reward.shape[1]
        powers = discount ** torch.arange(n_step, device=reward.device, dtype=reward.dtype)
        total = (reward * self.valid * powers).sum(1)
        n_valid = self.valid.sum(1).long()
        rows = torch.arange(len(reward), device=reward.device)
        factor = discount ** n_valid.to(reward.dtype) * (1 - self.terminated)
        return total, self.next_obs[rows, n_valid - 1], factor


class Replay:
    """A ring of `capacity` vector transitions of `n_envs` environments.

    Args:
        capacity: transitions in all, rounded down to whole vector steps.
        n_envs: environments.
        obs_dim, act_dim: widths.
        seed: of the sampling.
    """

    FIELDS = ("obs", "action", "next_obs", "reward", "terminated", "ended")

    def __init__(self, capacity: int, n_envs: int, obs_dim: int, act_dim: int, seed: int) -> None:
        rows = max(capacity // n_envs, 2)
        self.obs = np.zeros((rows, n_envs, obs_dim), np.float32)
        self.action = np.zeros((rows, n_envs, act_dim), np.float32)
        self.next_obs = np.zeros((rows, n_envs, obs_dim), np.float32)
        self.reward = np.zeros((rows, n_envs), np.float32)
        self.terminated = np.zeros((rows, n_envs), np.float32)
        self.ended = np.zeros((rows, n_envs), np.float32)
        self.rows, self.n_envs, self.n_added = rows, n_envs, 0
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Transitions held."""
        return min(self.n_added, self.rows) * self.n_envs

    def add(self, obs, action, reward, next_obs, terminated, truncated) -> None:
        """Adds one vector transition; arrays (n_envs, ...); next_obs is the last of the episode where it ended."""
        i = self.n_added % self.rows
        self.obs[i], self.action[i], self.next_obs[i], self.reward[i] = obs, action, next_obs, reward
        self.terminated[i], self.ended[i] = terminated, np.logical_or(terminated, truncated)
        self.n_added += 1

    def sample(self, batch: int, n_step: int = 1, device: torch.device | str = "cpu") -> Batch:
        """Returns `batch` transitions drawn uniformly, with up to n_step steps of future.

        Raises:
            ValueError: fewer than n_step vector steps have been added.
        """
        held = min(self.n_added, self.rows)
        if held < n_step:
            raise ValueError(f"replay holds {held} vector steps, fewer than n_step={n_step}; collect more first")
        oldest = self.n_added - held
        row = oldest + self.rng.integers(held - n_step + 1, size=batch)
        env = self.rng.integers(self.n_envs, size=batch)
        rows = (row[:, None] + np.arange(n_step)) % self.rows
        ended, env_n = self.ended[rows, env[:, None]], env[:, None]
        valid = np.cumprod(np.concatenate([np.ones((batch, 1)), 1 - ended[:, :-1]], 1), 1).astype(np.float32)
        terminated = (self.terminated[rows, env_n] * valid).max(1)
        arrays = (
            self.obs[rows[:, 0], env],
            self.action[rows[:, 0], env],
            self.next_obs[rows, env_n],
            self.reward[rows, env_n],
            valid,
            terminated,
        )
        return Batch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))

    def state(self) -> dict:
        """Returns all that `load` needs: arrays cut to what is held, and the sampler's state."""
        held = min(self.n_added, self.rows)
        arrays = {k: torch.from_numpy(getattr(self, k)[:held]) for k in self.FIELDS}
        return {"arrays": arrays, "n_added": self.n_added, "rng": self.rng.bit_generator.state}

    def load(self, saved: dict) -> None:
        """Goes back to what `state` returned."""
        for key, value in saved["arrays"].items():
            getattr(self, key)[: len(value)] = value.numpy()
        self.n_added = int(saved["n_added"])
        self.rng.bit_generator.state = saved["rng"]
