"""A policy in service: its bundle, its backend and its buffers."""

from pathlib import Path

import numpy as np

from policy_server.contract import wire
from policy_server.contract.bundle import Bundle
from policy_server.contract.choices import Precision, Provider
from policy_server.contract.errors import ServerError
from policy_server.contract.manifest import differences
from policy_server.runtime.base import batch_sizes, load_backend


class ServedPolicy:
    """A bundle that has passed its self-test on this machine and is warm.

    Attributes:
        bundle: The bundle.
        manifest: Its manifest.
        manifest_json: Its manifest as on the wire.
        backend: The inference backend.
        provider: The provider in use.
        self_test_error: Largest difference from the golden actions.
        id: First 8 bytes of the bundle's hash, as on the wire.
        valid_us: How long a chunk is meant to be executed [us].
        batch: Most observations in one call.
        has_memory: Whether it takes a state and gives it back.

    Args:
        path: Folder of the bundle.
        provider: auto, cpu, cuda or tensorrt.
        precision: fp32, or fp16 or int8 if the bundle has it.
        backend: Inference backend: a registered name, or `package.module:attribute`.

    Raises:
        BundleError: The bundle is damaged or inconsistent.
        BackendError: The provider is missing, or the golden vectors come out differently.
        ServerError: A message would be longer than the wire allows.
    """

    def __init__(
        self,
        path: str | Path,
        provider: Provider = "auto",
        precision: Precision = "fp32",
        backend: str = "onnxruntime",
    ):
        self.bundle = Bundle.load(path)
        self.manifest = self.bundle.manifest
        self.manifest_json = wire.json_bytes(self.manifest.to_dict())
        self._check_sizes()
        self.backend = load_backend(self.bundle, provider, precision=precision, backend=backend)
        self.self_test_error = self.backend.self_test()  # Every batch size, which warms them up.
        self.provider = self.backend.provider
        self.id = bytes.fromhex(self.bundle.hash)[:8]
        self.valid_us = round(self.manifest.n_action_steps * self.manifest.control_period_s * 1e6)
        self.batch = max(batch_sizes(self.bundle))
        self.has_memory = self.manifest.state_dim > 0
        self._buffers = [self.backend.buffers(n) for n in range(self.batch + 1)]

    def inputs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arrays obs and noise whose first `n` rows the next `act(n)` reads."""
        buffers = self._buffers[n]
        return buffers.obs, buffers.noise

    def states(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the states before and after `act(n)`, in the first `n` rows of two arrays."""
        buffers = self._buffers[n]
        return buffers.state, buffers.next_state

    def act(self, n: int) -> np.ndarray:
        """Returns the actions (n, horizon, act_dim) of `inputs(n)`. The next call changes them.

        Raises:
            BackendError: The runtime failed.
        """
        buffers = self._buffers[n]
        buffers.run()
        return buffers.action[:n]

    def check_replaces(self, old: "ServedPolicy") -> None:
        """Checks that the robots of the old policy can go on with this one.

        Raises:
            ServerError: Fields, horizon or period differ.
        """
        given = differences(self.manifest, old.manifest)
        if given:
            raise ServerError(
                f"the new bundle has another interface than the served one ({'; '.join(given)}): "
                "start a new server"
            )

    def _check_sizes(self) -> None:
        """Raises ServerError where a message would be longer than the wire allows."""
        manifest = self.manifest
        sizes = {
            "obs": 4 * manifest.obs_dim,
            "action": 4 * manifest.horizon * manifest.act_dim,
            "manifest": len(self.manifest_json) + 1024,
        }
        limit = wire.MAX_FRAME_BYTES
        for name, n_bytes in sizes.items():
            if n_bytes + wire.HEADER_BYTES > limit:
                raise ServerError(f"{name} needs {n_bytes} bytes, a message holds at most {limit}")
