"""A bundle's policy in this process, with the interface of `PolicyClient`."""

import time
from pathlib import Path

import numpy as np

from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import PolicyError
from policy_server.contract.wire import Status, all_finite
from policy_server.runtime.base import BackendError, Provider, load
from policy_server.serving.noise import NoiseStream


class LocalPolicy:
    """A policy without a server: the same actions, bit for bit, as the first session of a server with this seed.

    Attributes:
        manifest: Of the bundle.
        provider: Provider in use.
        last_times: Of the last act: inference_us, roundtrip_us [us].

    Args:
        bundle_path: Folder of the bundle.
        provider: auto, cpu, cuda or tensorrt.
        seed: Seed of the noise.

    Raises:
        BundleError: The bundle is refused.
        BackendError: The provider is missing, or the golden vectors come out differently.
    """

    def __init__(self, bundle_path: str | Path, provider: Provider = "auto", seed: int = 0):
        self._backend = load(Bundle.load(bundle_path), provider)
        self._backend.self_test()
        self.manifest, self.provider = self._backend.manifest, self._backend.provider
        self.last_times: dict[str, float] = {}
        self._noise = NoiseStream(seed)
        self._latent = np.zeros((1, self.manifest.latent_dim), np.float32)

    def reset(self, seed: int | None = None) -> None:
        """Restarts the noise at `seed`; None goes on with fresh noise. Raises PolicyError for a bad seed."""
        try:
            self._noise.reset(seed)
        except ValueError as error:
            raise PolicyError(Status.MALFORMED, str(error)) from error

    def act(self, obs: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """Returns the action chunk (horizon, act_dim) float32.

        Args:
            obs: (obs_dim,).
            deadline_s: Ignored; a computation in this process cannot be given up.

        Raises:
            PolicyError: BAD_LENGTH or NOT_FINITE obs, INTERNAL where the policy fails or answers NaN.
        """
        start_ns = time.monotonic_ns()
        obs = np.asarray(obs, dtype=np.float32)
        if obs.shape != (self.manifest.obs_dim,):
            raise PolicyError(
                Status.BAD_LENGTH, f"obs {obs.shape}, expected ({self.manifest.obs_dim},)"
            )
        if not all_finite(obs):
            raise PolicyError(Status.NOT_FINITE, f"obs holds NaN or infinity: {obs.tolist()}")
        try:
            action = self._backend.act(obs[None], self._noise.draw(self._latent))[0]
        except BackendError as error:
            raise PolicyError(Status.INTERNAL, str(error)) from error
        if not all_finite(action):
            raise PolicyError(
                Status.INTERNAL, "the policy answered NaN or infinity to a finite obs"
            )
        elapsed_us = (time.monotonic_ns() - start_ns) / 1000
        self.last_times = {"inference_us": elapsed_us, "roundtrip_us": elapsed_us}
        return action

    def close(self) -> None:
        """Does nothing; here for the client's interface."""

    def __enter__(self) -> "LocalPolicy":
        """Returns itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closes."""
        self.close()
