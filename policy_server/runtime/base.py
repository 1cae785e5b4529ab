"""Loads a bundle's policy on an inference backend, and checks what the backend computes.

A backend is one class or function, registered or given as `package.module:attribute`:

    @BACKENDS.register("numpy")
    class NumpyBackend:
        provider = "cpu"
        def __init__(self, bundle: Bundle, options: BackendOptions): ...
        def act(self, obs, noise): ...

Every backend is held to the same checks: shapes, precision, provider and the golden vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args, runtime_checkable

import numpy as np

from policy_server.contract.bundle import Bundle
from policy_server.contract.choices import Precision, Provider
from policy_server.contract.doors.registries import Registry, UnknownName
from policy_server.contract.errors import BackendError, first_line
from policy_server.contract.policy import BatchPolicy

FP32_ATOL = 1e-4  # allowed difference from the golden actions, in physical units
N_STATIC = 2  # golden vectors that each batch size computes again, at least


class Backend(BatchPolicy, Protocol):
    """Computes a policy's graph. This is all that an inference backend must have."""

    @property
    def provider(self) -> str:
        """Device in use: cpu, cuda, tensorrt, or a name of the backend's own."""
        ...


class Buffers(Protocol):
    """Input and output arrays that stay where they are, so that a query allocates nothing."""

    obs: np.ndarray
    noise: np.ndarray
    action: np.ndarray

    def run(self) -> None:
        """Computes `action` from `obs` and `noise`.

        Raises:
            BackendError: The runtime failed.
        """


@runtime_checkable
class Buffered(Protocol):
    """A backend that has buffers of its own for some batch sizes. This is optional."""

    def buffers(self, n: int) -> Buffers | None:
        """Returns buffers of at least `n` rows, batch first, or None if there are none so large."""
        ...


@dataclass(frozen=True)
class BackendOptions:
    """How a backend is to run.

    Attributes:
        provider: Device that computes. auto: the backend chooses.
        n_threads: Threads inside one operator on the CPU.
        precision: Version of the graph; `graph_name` gives its file. The bundle has it.
        batch_sizes: Numbers of rows that the backend should be ready for.
    """

    provider: Provider = "auto"
    n_threads: int = 1
    precision: Precision = "fp32"
    batch_sizes: tuple[int, ...] = (1,)


BackendFactory = Callable[[Bundle, BackendOptions], Backend]
BACKENDS: Registry[BackendFactory] = Registry(
    "inference backend", package="policy_server.runtime", group="edp_robot.backends"
)


def load_backend(
    bundle: Bundle | str | Path,
    provider: Provider = "auto",
    n_threads: int = 1,
    precision: Precision = "fp32",
    backend: str = "onnxruntime",
) -> CheckedBackend:
    """Returns the bundle's policy on an inference backend. Call `self_test` before you rely on it.

    Args:
        bundle: A bundle, or its folder.
        provider: Device that computes: cpu, cuda or tensorrt, used or refused. auto: the faster
            one.
        n_threads: Threads inside one operator on the CPU.
        precision: fp32, or fp16 or int8 if the bundle has it.
        backend: A registered name, or `package.module:attribute`.

    Raises:
        BundleError: The bundle is refused.
        BackendError: Backend, provider, precision or graph are not what is needed.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle)
    if provider not in get_args(Provider):
        expected = ", ".join(get_args(Provider))
        raise BackendError(f"provider {provider!r}: expected one of {expected}")
    if precision not in bundle.precisions:
        raise BackendError(
            f"precision {precision!r} is not in the bundle; it has {', '.join(bundle.precisions)}; "
            "`edp calibrate quant` makes others"
        )
    options = BackendOptions(provider, n_threads, precision, batch_sizes(bundle))
    try:
        factory = BACKENDS.get(backend)
    except (UnknownName, ImportError) as error:
        raise BackendError(str(error)) from error
    made = factory(bundle, options)
    if provider not in ("auto", made.provider):
        raise BackendError(
            f"provider {provider} was asked for, and backend {backend} runs on {made.provider}; "
            "ask for auto or choose another backend"
        )
    return CheckedBackend(made, bundle, precision)


def batch_sizes(bundle: Bundle) -> tuple[int, ...]:
    """Returns the batch sizes that the bundle wants a backend to be ready for.

    Raises:
        BackendError: sampler.batch_sizes is not a list of sizes.
    """
    sizes = bundle.manifest.sampler.get("batch_sizes", [1])
    fits = isinstance(sizes, list) and all(type(n) is int and 1 <= n <= 1024 for n in sizes)
    if not fits:
        raise BackendError(
            f"sampler.batch_sizes {sizes!r}: expected a list of whole numbers from 1 to 1024"
        )
    return tuple(sizes)


class CheckedBackend:
    """A bundle's policy on a backend, with every shape checked.

    Attributes:
        manifest: The bundle's manifest.
        provider: Device in use.
        precision: Version of the graph in use.
        golden: The bundle's golden arrays.

    Args:
        backend: Computes the graph.
        bundle: The bundle that the graph is from.
        precision: Version of the graph.
    """

    def __init__(self, backend: Backend, bundle: Bundle, precision: Precision):
        self.manifest = bundle.manifest
        self.provider = backend.provider
        self.precision: Precision = precision
        self.golden = bundle.golden()
        self._sizes = batch_sizes(bundle)
        self._act = backend.act
        self._buffered = backend if isinstance(backend, Buffered) else None
        self._obs_dim = self.manifest.obs_dim
        self._latent_dim = self.manifest.latent_dim
        self._answer = (self.manifest.horizon, self.manifest.act_dim)

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns new actions (n, horizon, act_dim) float32 in physical units.

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim), standard normal.

        Raises:
            BackendError: A shape differs from the manifest, or the backend failed.
        """
        n = len(obs)
        if obs.shape != (n, self._obs_dim) or noise.shape != (n, self._latent_dim):
            raise BackendError(
                f"obs {obs.shape}, noise {noise.shape}: "
                f"expected ({n}, {self._obs_dim}) and ({n}, {self._latent_dim})"
            )
        try:
            action = self._act(obs, noise)
        except BackendError:
            raise
        except Exception as error:  # every runtime has errors of its own
            raise inference_error(self.provider, error) from error
        if action.shape != (n, *self._answer) or action.dtype != np.float32:
            raise BackendError(
                f"the graph answered {action.dtype} {action.shape}, "
                f"expected float32 {(n, *self._answer)}; export it again"
            )
        return action

    def buffers(self, n: int) -> Buffers:
        """Returns buffers of at least `n` rows: the backend's own, if it has some of that size."""
        own = None if self._buffered is None else self._buffered.buffers(n)
        return own if own is not None else PlainBuffers(self, n)

    def self_test(self, atol: float | None = None) -> float:
        """Returns the largest difference between the golden actions and what this machine computes.

        Computes all golden vectors in one call, and the first of them again in each batch size. A
        backend may have other kernels for these, and on a GPU a captured graph, so this warms them
        up too.

        Args:
            atol: Allowed difference. None: FP32_ATOL, and for another precision 1.5 times the
                difference that it had when it was made on top.

        Raises:
            BackendError: The difference is above `atol` or not a number, so this machine must not
                serve.
        """
        allowed = self._default_atol() if atol is None else atol
        n = len(self.golden["obs"])
        parts = [
            slice(start, start + size)
            for size in sorted(set(self._sizes))
            for start in range(0, min(n, max(size, N_STATIC)), size)
        ]
        # np.max keeps a NaN, Python's max would pass over it
        error = float(np.max([self._error(part) for part in (slice(n), *parts)]))
        if not error <= allowed:
            raise BackendError(
                f"self-test failed on {self.provider}: max abs error {error:.3g}, expected at most "
                f"{allowed:g} on {n} golden vectors; the runtime computes another policy than the "
                "one exported"
            )
        return error

    def _default_atol(self) -> float:
        made = self.manifest.parity.get(self.precision, {}) if self.precision != "fp32" else {}
        return FP32_ATOL + 1.5 * float(made.get("golden_max_abs_error", 0.0))

    def _error(self, part: slice) -> float:
        """Returns the largest difference on some of the golden vectors, computed in one call."""
        action = self.act(self.golden["obs"][part], self.golden["noise"][part])
        return float(np.abs(action - self.golden["action"][part]).max())


class PlainBuffers:
    """Buffers for a backend that has none of its own.

    Args:
        backend: Computes the action.
        n: Number of rows.
    """

    def __init__(self, backend: CheckedBackend, n: int):
        manifest = backend.manifest
        self.obs = np.zeros((n, manifest.obs_dim), np.float32)
        self.noise = np.zeros((n, manifest.latent_dim), np.float32)
        self.action = np.zeros((n, manifest.horizon, manifest.act_dim), np.float32)
        self._act = backend.act

    def run(self) -> None:
        """Computes `action` from `obs` and `noise`."""
        self.action[...] = self._act(self.obs, self.noise)


def inference_error(provider: str, error: Exception) -> BackendError:
    """Returns the BackendError for what a runtime raised."""
    return BackendError(f"inference failed on {provider}: {first_line(error)}")
