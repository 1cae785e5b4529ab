"""What every policy can do: local, served or wrapped."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from policy_server.contract.manifest import Manifest


class Policy(Protocol):
    """A policy that turns an observation into a chunk of commands in physical units."""

    @property
    def manifest(self) -> Manifest:
        """What the policy expects and answers."""
        ...

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode, with an empty memory.

        Restarts the noise at `seed`; None goes on with fresh noise.
        """

    def act(self, obs: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """Returns the commands to execute next (horizon, act_dim).

        Args:
            obs: (obs_dim,).
            deadline_s: How long to wait [s]. None: the policy's own limit.

        Raises:
            PolicyTimeout: No answer came in time.
            PolicyError: The policy refused the obs or failed.
        """
        ...

    def close(self) -> None:
        """Frees what the policy holds."""


class BatchPolicy(Protocol):
    """A policy's graph that answers many observations at once: a backend, or a bare graph."""

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns new actions (n, horizon, act_dim) float32 in physical units.

        Args:
            obs: (n, obs_dim) float32.
            noise: (n, latent_dim) float32, standard normal.
        """
        ...


@runtime_checkable
class RecurrentPolicy(Protocol):
    """A batch policy whose graph has memory: its state goes in and comes back."""

    def step(
        self, obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns new actions (n, horizon, act_dim) and the states after them (n, state_dim).

        Args:
            obs: (n, obs_dim) float32.
            noise: (n, latent_dim) float32, standard normal.
            state: (n, state_dim) float32. Zeros begin an episode.
        """
        ...
