"""A policy in service: its bundle, its runtime and its buffers."""

from pathlib import Path
from typing import Any

import numpy as np

from policy_server.contract import wire
from policy_server.contract.bundle import Bundle
from policy_server.contract.choices import Precision, Provider
from policy_server.runtime.base import batch_sizes, load_backend
from policy_server.transport.address import ServerError

_INTERFACE = ("obs", "action", "horizon", "n_action_steps", "control_period_s")


class ServedPolicy:
    """A bundle that has passed its self-test on this machine and is warm.

    Attributes:
        bundle, manifest: Of the policy.
        provider: In use.
        self_test_error: Largest difference from the golden actions.
        id: First 8 bytes of the bundle's hash, as on the wire.
        valid_us: How long a chunk is meant to be executed [us].
        batch: Most observations in one call.

    Args:
        path: Folder of the bundle.
        provider: auto, cpu, cuda or tensorrt.
        precision: fp32, or fp16 or int8 if the bundle has it.
        backend: Inference backend: a registered name, or `package.module:attribute`.

    Raises:
        BundleError: The bundle is refused.
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
        _check_sizes(self)
        self.backend = load_backend(
            self.bundle, provider, precision=precision, backend=backend
        )
        self.self_test_error = self.backend.self_test()  # in every batch size: this warms them up
        self.provider = self.backend.provider
        self.id = bytes.fromhex(self.bundle.hash)[:8]
        self.valid_us = round(self.manifest.n_action_steps * self.manifest.control_period_s * 1e6)
        self.batch = max(batch_sizes(self.bundle))
        self._buffers = [self.backend.buffers(n) for n in range(self.batch + 1)]

    def inputs(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the next `n` observations and their noise go: the first `n` rows of obs and noise."""
        buffers = self._buffers[n]
        return buffers.obs, buffers.noise

    def act(self, n: int) -> np.ndarray:
        """Returns the actions (n, horizon, act_dim) for what `inputs(n)` holds, until the next call.

        Raises:
            BackendError: The runtime failed.
        """
        buffers = self._buffers[n]
        buffers.run()
        return buffers.action[:n]

    def check_replaces(self, old: "ServedPolicy") -> None:
        """Raises ServerError where robots of the old policy could not go on with this one as they are."""
        mine, its = (policy.manifest.to_dict() for policy in (self, old))
        differing = [name for name in _INTERFACE if mine[name] != its[name]]
        if differing:
            given = "; ".join(
                f"{name} {_short(mine[name])} instead of {_short(its[name])}" for name in differing
            )
            raise ServerError(
                f"the new bundle has another interface than the served one ({given}): start a new server"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _check_sizes(policy: ServedPolicy) -> None:
    """Raises ServerError where a message of this policy would be longer than the wire allows."""
    manifest = policy.manifest
    sizes = {
        "obs": 4 * manifest.obs_dim,
        "action": 4 * manifest.horizon * manifest.act_dim,
        "manifest": len(policy.manifest_json) + 1024,
    }
    for name, n_bytes in sizes.items():
        if n_bytes + wire.HEADER_BYTES > wire.MAX_FRAME_BYTES:
            raise ServerError(
                f"{name} needs {n_bytes} bytes, a message holds at most {wire.MAX_FRAME_BYTES}"
            )
