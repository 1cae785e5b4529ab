"""What every policy can do: local, served or wrapped."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from policy_server.contract.errors import PolicyError
from policy_server.contract.manifest import Manifest
from policy_server.contract.wire import Status


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


def float_array(values: Any) -> np.ndarray:
    """Returns numbers as a float32 array: an array, a list, or another package's tensor.

    What float32 cannot hold becomes infinite.

    Raises:
        ValueError: They are no real numbers, or lists of unequal length.
    """
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        return values
    try:
        array = np.asarray(values)
        if array.dtype.kind in "fiub":
            with np.errstate(over="ignore"):
                return array.astype(np.float32)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{error}; expected an array of numbers") from error
    raise ValueError(f"{array.dtype} {array.shape}; expected an array of real numbers")


def obs_array(obs: Any, obs_dim: int) -> np.ndarray:
    """Returns an observation as a float32 array (obs_dim,).

    Raises:
        PolicyError: BAD_LENGTH where it has another shape, MALFORMED where it is no numbers.
    """
    try:
        array = float_array(obs)
    except ValueError as error:
        raise PolicyError(Status.MALFORMED, f"obs: {error}") from error
    if array.shape != (obs_dim,):
        message = f"obs {array.shape}, expected ({obs_dim},), one observation"
        raise PolicyError(Status.BAD_LENGTH, message)
    return array
