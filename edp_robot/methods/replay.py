"""Replay of transitions in arrays, time-major, so that n-step sums follow each environment's own path."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edp_robot.diffusion.networks import Normaliser


@dataclass(frozen=True)
class Batch:
    """Transitions with their n-step future: tensors of `batch` rows, with the axes of a stack in front if there is one.

    obs (*stack, batch, obs_dim); action (*stack, batch, act_dim); next_obs (*stack, batch, n_step, obs_dim): s_1 ...
    s_n; reward (*stack, batch, n_step): r_1 ... r_n; valid (*stack, batch, n_step): 1 while the episode goes on, 0
    after its end; terminated (*stack, batch): 1 if it ended in a terminal state within n.
    """

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor
    valid: Tensor
    terminated: Tensor

    def normalised(self, norm: Normaliser) -> Batch:
        """Returns the batch with normalised observations."""
        return replace(self, obs=norm(self.obs), next_obs=norm(self.next_obs))

    def n_step_return(self, reward: Tensor, discount: float) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (sum of discounted rewards (*stack, batch), bootstrap obs (*stack, batch, obs_dim), its factor).

        The factor (*stack, batch) is discount^n with the n that the episode really lasted, 0 after a terminal state
        (the authors' code uses discount^1, method section 4).
        """
        powers = discount ** torch.arange(
            reward.shape[-1], device=reward.device, dtype=reward.dtype
        )
        total = (reward * self.valid * powers).sum(-1)
        n_valid = self.valid.sum(-1)
        last = (n_valid.long() - 1)[..., None, None].expand(
            *n_valid.shape, 1, self.next_obs.shape[-1]
        )
        return (
            total,
            self.next_obs.gather(-2, last).squeeze(-2),
            discount**n_valid * (1 - self.terminated),
        )


class Replay:
    """A ring of `capacity` vector transitions of `n_envs` environments.

    Args:
        capacity: transitions in all, rounded down to whole vector steps.
        n_envs: environments.
        obs_dim, act_dim: widths.
        seed: of the sampling.
        n_seeds: learners that the environments belong to, the first n_envs / n_seeds to the first; 0: one learner, and
            batches without an axis for it.
    """

    FIELDS = ("obs", "action", "next_obs", "reward", "terminated", "ended")

    def __init__(
        self, capacity: int, n_envs: int, obs_dim: int, act_dim: int, seed: int, n_seeds: int = 0
    ) -> None:
        rows = max(capacity // n_envs, 2)
        self.obs = np.zeros((rows, n_envs, obs_dim), np.float32)
        self.action = np.zeros((rows, n_envs, act_dim), np.float32)
        self.next_obs = np.zeros((rows, n_envs, obs_dim), np.float32)
        self.reward = np.zeros((rows, n_envs), np.float32)
        self.terminated = np.zeros((rows, n_envs), np.float32)
        self.ended = np.zeros((rows, n_envs), np.float32)
        self.rows, self.n_envs, self.n_added, self.n_seeds = rows, n_envs, 0, n_seeds
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Transitions held."""
        return min(self.n_added, self.rows) * self.n_envs

    def add(self, obs, action, reward, next_obs, terminated, truncated) -> None:
        """Adds one vector transition; arrays (n_envs, ...); next_obs is the last of the episode where it ended."""
        i = self.n_added % self.rows
        self.obs[i], self.action[i], self.next_obs[i], self.reward[i] = (
            obs,
            action,
            next_obs,
            reward,
        )
        self.terminated[i], self.ended[i] = terminated, np.logical_or(terminated, truncated)
        self.n_added += 1

    def sample(self, batch: int, n_step: int = 1, device: torch.device | str = "cpu") -> Batch:
        """Returns `batch` transitions (of each learner) drawn uniformly, with up to n_step steps of future.

        Raises:
            ValueError: fewer than n_step vector steps have been added.
        """
        held = min(self.n_added, self.rows)
        if held < n_step:
            raise ValueError(
                f"replay holds {held} vector steps, fewer than n_step={n_step}; collect more first"
            )
        row, env = self._draw(batch, held - n_step + 1)
        rows, env_n = (row[..., None] + np.arange(n_step)) % self.rows, env[..., None]
        going_on = 1 - self.ended[rows[..., :-1], env_n]
        valid = np.cumprod(np.concatenate([np.ones((*row.shape, 1), np.float32), going_on], -1), -1)
        arrays = (
            self.obs[rows[..., 0], env],
            self.action[rows[..., 0], env],
            self.next_obs[rows, env_n],
            self.reward[rows, env_n],
            valid,
            (self.terminated[rows, env_n] * valid).max(-1),
        )
        return Batch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))

    def _draw(self, batch: int, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows, of the oldest `n_rows`, and environments, each learner's own: ([n_seeds,] batch) both."""
        per_seed = self.n_envs // max(1, self.n_seeds)
        shape = (self.n_seeds, batch) if self.n_seeds else (batch,)
        row = self.n_added - min(self.n_added, self.rows) + self.rng.integers(n_rows, size=shape)
        env = self.rng.integers(per_seed, size=shape)
        return row, env + per_seed * np.arange(self.n_seeds)[:, None] if self.n_seeds else env

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
