"""Replay of transitions, time-major, so that n-step sums follow each environment's own path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edp_robot.diffusion.networks import Normaliser
from edp_robot.methods.memory import require_memory


@dataclass(frozen=True)
class Batch:
    """Transitions with their n-step future. The axes of a stack, if there is one, come first.

    obs: (*stack, batch, obs_dim).
    action: (*stack, batch, act_dim).
    next_obs: (*stack, batch, n_step, obs_dim), s_1 ... s_n.
    reward: (*stack, batch, n_step), r_1 ... r_n.
    valid: (*stack, batch, n_step), 1 while the episode goes on and 0 after its end.
    terminated: (*stack, batch), 1 if it ended in a terminal state within n.
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
        """Returns (discounted rewards' sum, the observation to bootstrap from, its factor).

        They are (*stack, batch), (*stack, batch, obs_dim) and (*stack, batch). The factor is
        discount^n with the n that the episode really lasted, and 0 after a terminal state. The
        authors' code uses discount^1 (method section 4).
        """
        steps = torch.arange(reward.shape[-1], device=reward.device, dtype=reward.dtype)
        total = (reward * self.valid * discount**steps).sum(-1)
        n_valid = self.valid.sum(-1)
        last = (n_valid.long() - 1)[..., None, None]
        last = last.expand(*n_valid.shape, 1, self.next_obs.shape[-1])
        factor = discount**n_valid * (1 - self.terminated)
        return total, self.next_obs.gather(-2, last).squeeze(-2), factor


class TooFewSteps(ValueError):
    """A replay holds fewer vector steps than a sample needs; a training waits for more."""


class Replay:
    """A ring of `capacity` vector transitions of `n_envs` environments.

    Args:
        capacity: Transitions in all, rounded down to whole vector steps.
        n_envs: Environments.
        obs_dim: Length of an observation.
        act_dim: Length of an action.
        seed: Seeds the sampling.
        n_seeds: Learners that the environments belong to, equal blocks of them in order. 0: one
            learner, and batches without an axis for learners.
        expected: Vector steps to take memory for at first; it grows up to the capacity where more
            come. None: the whole capacity.

    Raises:
        MemoryTooSmall: The machine has no memory for it.
    """

    FIELDS = ("obs", "action", "next_obs", "reward", "terminated", "ended")

    def __init__(
        self,
        capacity: int,
        n_envs: int,
        obs_dim: int,
        act_dim: int,
        seed: int,
        n_seeds: int = 0,
        expected: int | None = None,
    ) -> None:
        self.max_rows = max(capacity // n_envs, 2)
        self.n_envs = n_envs
        self.n_added = 0
        self.n_seeds = n_seeds
        self.rng = np.random.default_rng(seed)
        self.rows = 0
        self.obs = np.zeros((0, n_envs, obs_dim), np.float32)
        self.action = np.zeros((0, n_envs, act_dim), np.float32)
        self.next_obs = np.zeros((0, n_envs, obs_dim), np.float32)
        self.reward = np.zeros((0, n_envs), np.float32)
        self.terminated = np.zeros((0, n_envs), np.float32)
        self.ended = np.zeros((0, n_envs), np.float32)
        self._make_room(self.max_rows if expected is None else expected)

    def _make_room(self, rows: int) -> None:
        """Takes memory for `rows` vector steps, at least 2 and at most the capacity.

        What it holds must stand in order, from the first row on.
        """
        rows = min(max(rows, 2), self.max_rows)
        arrays = {name: getattr(self, name) for name in self.FIELDS}
        numbers = sum(int(np.prod(array.shape[1:])) for array in arrays.values())
        obs_dim = self.obs.shape[-1]
        require_memory(
            4 * rows * numbers,
            f"a replay of {rows * self.n_envs:,} transitions with observations of {obs_dim:,} "
            "numbers",
            "lower loop.replay_capacity (--set loop.replay_capacity=N) or the env_steps, or make "
            "the observations smaller",
        )
        for name, old in arrays.items():
            new = np.zeros((rows, *old.shape[1:]), np.float32)
            new[: len(old)] = old
            setattr(self, name, new)
        self.rows = rows

    @property
    def n_rows(self) -> int:
        """Returns how many vector steps it holds."""
        return min(self.n_added, self.rows)

    def __len__(self) -> int:
        """Returns how many transitions it holds."""
        return self.n_rows * self.n_envs

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_obs: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Adds one vector transition.

        Args:
            obs: (n_envs, obs_dim).
            action: (n_envs, act_dim).
            reward: (n_envs,).
            next_obs: (n_envs, obs_dim), the episode's last observation where it ended.
            terminated: (n_envs,).
            truncated: (n_envs,).
        """
        if self.n_added == self.rows < self.max_rows:
            self._make_room(2 * self.rows)
        i = self.n_added % self.rows
        self.obs[i] = obs
        self.action[i] = action
        self.reward[i] = reward
        self.next_obs[i] = next_obs
        self.terminated[i] = terminated
        self.ended[i] = np.logical_or(terminated, truncated)
        self.n_added += 1

    def cut(self) -> None:
        """Marks the newest vector step as truncated: no episode of it goes on."""
        if self.n_added:
            self.ended[(self.n_added - 1) % self.rows] = 1

    def sample(self, batch: int, n_step: int = 1, device: torch.device | str = "cpu") -> Batch:
        """Returns transitions (of each learner) drawn uniformly.

        Args:
            batch: Transitions.
            n_step: Steps of future with each, fewer where the episode ends.
            device: Where the tensors go.

        Raises:
            TooFewSteps: It holds fewer than n_step vector steps.
        """
        if self.n_rows < n_step:
            raise TooFewSteps(
                f"replay holds {self.n_rows} vector steps (at most {self.max_rows}), fewer than "
                f"n_step={n_step}; collect more first, or give it more capacity"
            )
        row, env = self._draw(batch, self.n_rows - n_step + 1)
        rows = (row[..., None] + np.arange(n_step)) % self.rows
        env_n = env[..., None]
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
        """Returns rows of the oldest `n_rows`, and environments, ([n_seeds,] batch) both."""
        per_seed = self.n_envs // max(1, self.n_seeds)
        shape = (self.n_seeds, batch) if self.n_seeds else (batch,)
        row = self.n_added - self.n_rows + self.rng.integers(n_rows, size=shape)
        env = self.rng.integers(per_seed, size=shape)
        return row, env + per_seed * np.arange(self.n_seeds)[:, None] if self.n_seeds else env

    def observations(self, n: int) -> np.ndarray:
        """Returns `n` raw observations (of each learner) at most, ([n_seeds,] n, obs_dim).

        Where it holds more, they are drawn by a generator of their own: `sample` goes on as if
        nothing had happened, and the same content gives the same rows.
        """
        n_learners = max(1, self.n_seeds)
        per_seed = self.n_envs // n_learners
        held = self.n_rows * per_seed
        chosen = np.arange(held)
        if held > n:
            chosen = np.random.default_rng(self.n_added).integers(held, size=n)
        first_env = per_seed * np.arange(n_learners)[:, None]
        rows = self.obs[chosen // per_seed, chosen % per_seed + first_env]
        return rows if self.n_seeds else rows[0]

    def state(self) -> dict[str, Any]:
        """Returns the arrays, cut to what it holds, and the sampler's random state."""
        arrays = {
            name: torch.from_numpy(getattr(self, name)[: self.n_rows]) for name in self.FIELDS
        }
        return {"arrays": arrays, "n_added": self.n_added, "rng": self.rng.bit_generator.state}

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned, also of a replay of another capacity.

        It keeps the newest vector steps that it has room for.
        """
        arrays = in_order(saved)
        n_held = len(arrays["obs"])
        if n_held > self.rows:
            self._make_room(n_held)
        kept = min(n_held, self.rows)
        is_same_ring = n_held == self.rows
        self.n_added = int(saved["n_added"]) if is_same_ring else kept
        rows = (self.n_added - kept + np.arange(kept)) % self.rows
        for name, values in arrays.items():
            getattr(self, name)[rows] = values[n_held - kept :]
        self.rng.bit_generator.state = saved["rng"]


def in_order(saved: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a saved replay's arrays, the oldest vector step first.

    Args:
        saved: What `Replay.state` returned. The oldest row of a ring that has wrapped is not the
            first.
    """
    n_held = len(saved["arrays"]["obs"])
    arrays = {name: values.numpy() for name, values in saved["arrays"].items()}
    oldest = saved["n_added"] % n_held if saved["n_added"] > n_held else 0
    return (
        {name: np.roll(values, -oldest, 0) for name, values in arrays.items()} if oldest else arrays
    )
