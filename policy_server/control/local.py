"""A bundle's policy in this process, with the interface of `PolicyClient`."""

import time
from pathlib import Path

import numpy as np

from policy_server.contract.choices import Provider
from policy_server.contract.errors import BackendError, PolicyError
from policy_server.contract.noise import NoiseStream
from policy_server.contract.policy import obs_array
from policy_server.contract.wire import Status, all_finite
from policy_server.control.sole_use import SharedUse, SoleUse
from policy_server.runtime.base import load_backend


def _refuse_child() -> None:
    """Raises SharedUse: a runtime's threads and device do not live on in a forked process."""
    raise SharedUse(
        "a LocalPolicy cannot be used in a process that was forked off: make one in each process"
    )


class LocalPolicy:
    """A policy without a server. One thread at a time may use it, in the process that made it.

    Elsewhere it raises SharedUse.

    It gives the same actions, bit for bit, as a server with this seed gives its first session.

    Attributes:
        manifest: The bundle's manifest.
        provider: The provider in use.
        last_times: Times of the last act: inference_us and roundtrip_us [us].

    Args:
        bundle_path: Folder of the bundle.
        provider: auto, cpu, cuda or tensorrt.
        seed: Seeds the noise.
        backend: Inference backend: a registered name, or `package.module:attribute`.

    Raises:
        BundleError: The bundle is damaged or inconsistent.
        BackendError: The provider is missing, or the golden vectors come out differently.
    """

    def __init__(
        self,
        bundle_path: str | Path,
        provider: Provider = "auto",
        seed: int = 0,
        backend: str = "onnxruntime",
    ):
        self._backend = load_backend(bundle_path, provider, backend=backend)
        self._backend.self_test()
        self.manifest = self._backend.manifest
        self.provider = self._backend.provider
        self.last_times: dict[str, float] = {}
        self._noise = NoiseStream(seed)
        self._use = SoleUse("this LocalPolicy", _refuse_child)
        self._latent = np.zeros((1, self.manifest.latent_dim), np.float32)
        self._empty = np.zeros((1, self.manifest.state_dim), np.float32)
        self._memory = self._empty
        self._next = self._empty  # the memory after an answer, if that is finite
        self._answer = self._backend.act if not self.manifest.state_dim else self._step

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode, with an empty memory.

        Restarts the noise at `seed`; None goes on with fresh noise.

        Raises:
            PolicyError: The seed is not a whole number in [0, 2^63).
        """
        with self._use:
            try:
                self._noise.reset(seed)
            except ValueError as error:
                raise PolicyError(Status.MALFORMED, str(error)) from error
            self._memory = self._empty

    def act(self, obs: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """Returns the action chunk (horizon, act_dim) float32.

        The memory advances unless the call raises.

        Args:
            obs: (obs_dim,).
            deadline_s: Ignored. A computation in this process cannot be stopped.

        Raises:
            PolicyError: BAD_LENGTH, NOT_FINITE or MALFORMED obs; INTERNAL where the policy fails or
                answers NaN.
        """
        with self._use:
            return self._act(obs)

    def _act(self, obs: np.ndarray) -> np.ndarray:
        start_ns = time.monotonic_ns()
        obs = obs_array(obs, self.manifest.obs_dim)
        if not all_finite(obs):
            raise PolicyError(Status.NOT_FINITE, f"obs holds NaN or infinity: {obs.tolist()}")
        try:
            action = self._answer(obs[None], self._noise.draw(self._latent))[0]
        except BackendError as error:
            raise PolicyError(Status.INTERNAL, str(error)) from error
        if not all_finite(action):
            message = "the policy answered NaN or infinity to a finite obs"
            raise PolicyError(Status.INTERNAL, message)
        self._memory = self._next
        elapsed_us = (time.monotonic_ns() - start_ns) / 1000
        self.last_times = {"inference_us": elapsed_us, "roundtrip_us": elapsed_us}
        return action

    def _step(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns the actions (1, horizon, act_dim) of a policy with memory, NaN as its state."""
        action, self._next = self._backend.step(obs, noise, self._memory)
        return action if all_finite(self._next) else np.full_like(action, np.nan)

    def close(self) -> None:
        """Does nothing. `PolicyClient` has it too."""

    def __enter__(self) -> "LocalPolicy":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the policy."""
        self.close()
