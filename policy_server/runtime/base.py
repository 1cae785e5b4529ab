"""Loads a bundle's policy on an inference backend, and checks what the backend computes.

A backend is one class or function, registered or given as `package.module:attribute`:

    @BACKENDS.register("numpy")
    class NumpyBackend:
        provider = "cpu"
        def __init__(self, bundle: Bundle, options: BackendOptions): ...
        def act(self, obs, noise): ...

A backend for policies with memory (manifest.state_dim > 0) also has `step`, see RecurrentPolicy.
Every backend is held to the same checks: shapes, precision, provider and the golden vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np

from policy_server.contract.bundle import Bundle
from policy_server.contract.choices import Precision, Provider
from policy_server.contract.doors.registries import Registry, UnknownName
from policy_server.contract.errors import BackendError, first_line
from policy_server.contract.field import difference
from policy_server.contract.policy import BatchPolicy, RecurrentPolicy, float_array
from policy_server.runtime.tolerance import FP32_SHARE, allowed_errors

N_STATIC = 2  # golden vectors that each batch size computes again, at least


class Backend(BatchPolicy, Protocol):
    """Computes a policy's graph. This is all that an inference backend must have."""

    @property
    def provider(self) -> str:
        """Device in use: cpu, cuda, tensorrt, or a name of the backend's own."""
        ...


class Buffers(Protocol):
    """Input and output arrays that stay where they are, so that a query allocates nothing.

    `state` and `next_state` are read only for a policy with memory.
    """

    obs: np.ndarray
    noise: np.ndarray
    action: np.ndarray
    state: np.ndarray
    next_state: np.ndarray

    def run(self) -> None:
        """Computes `action` and `next_state` from `obs`, `noise` and `state`.

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

    Raises:
        BackendError: The policy has memory, and the backend cannot keep it.
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
        self._state_dim = self.manifest.state_dim
        self._answer = (self.manifest.horizon, self.manifest.act_dim)
        self._recurrent = backend if isinstance(backend, RecurrentPolicy) else None
        if self._state_dim and self._recurrent is None:
            raise BackendError(
                f"{type(backend).__name__} has no method step, and the policy has memory "
                f"(state_dim {self._state_dim}); choose another --backend, or see "
                "docs/your_backend.md"
            )

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns new actions (n, horizon, act_dim) float32 in physical units.

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim), standard normal.

        Raises:
            BackendError: A shape differs from the manifest, the backend failed, or the policy has
                memory, which only `step` passes on.
        """
        obs = _numbers(obs)
        noise = _numbers(noise)
        n = obs.shape[0] if obs.ndim else 1
        if obs.shape != (n, self._obs_dim) or noise.shape != (n, self._latent_dim):
            raise BackendError(
                f"obs {obs.shape}, noise {noise.shape}: "
                f"expected ({n}, {self._obs_dim}) and ({n}, {self._latent_dim})"
            )
        if self._state_dim:
            raise BackendError(
                f"the policy has memory (state_dim {self._state_dim}): "
                "use step(obs, noise, state), with a state of zeros to begin an episode"
            )
        try:
            action = self._act(obs, noise)
        except BackendError:
            raise
        except Exception as error:  # every runtime has errors of its own
            raise inference_error(self.provider, error) from error
        _check_answer(action, (n, *self._answer))
        return action

    def step(
        self, obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns new actions (n, horizon, act_dim) and the states after them (n, state_dim).

        A policy without memory has states of length 0.

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim), standard normal.
            state: (n, state_dim). Zeros begin an episode.

        Raises:
            BackendError: A shape differs from the manifest, or the backend failed.
        """
        obs = _numbers(obs)
        noise = _numbers(noise)
        state = _numbers(state)
        n = obs.shape[0] if obs.ndim else 1
        wanted = ((n, self._obs_dim), (n, self._latent_dim), (n, self._state_dim))
        given = (obs.shape, noise.shape, state.shape)
        if given != wanted:
            raise BackendError(f"obs, noise, state {given}: expected {wanted}")
        if self._recurrent is None or not self._state_dim:
            return self.act(obs, noise), state
        try:
            action, next_state = self._recurrent.step(obs, noise, state)
        except BackendError:
            raise
        except Exception as error:  # every runtime has errors of its own
            raise inference_error(self.provider, error) from error
        _check_answer(action, (n, *self._answer))
        _check_answer(next_state, (n, self._state_dim))
        return action, next_state

    def buffers(self, n: int) -> Buffers:
        """Returns buffers of at least `n` rows: the backend's own, if it has some of that size."""
        own = None if self._buffered is None else self._buffered.buffers(n)
        return own if own is not None else PlainBuffers(self, n)

    def self_test(self, atol: float | None = None) -> float:
        """Returns the largest difference between the golden actions and what this machine computes.

        Computes all golden vectors in one call, and the first of them again in each batch size. A
        backend may have other kernels for these, and on a GPU a captured graph, so this warms them
        up too. A policy with memory also replays each golden episode from an empty memory.

        Args:
            atol: Allowed difference of every action. None: see `allowed_errors`.

        Raises:
            BackendError: A difference is larger or not a number, so this machine must not serve.
        """
        allowed = allowed_errors(self.manifest, self.precision, self.golden)
        if atol is not None:
            allowed = np.full_like(allowed, atol)
        n = len(self.golden["obs"])
        parts = [
            slice(start, start + size)
            for size in sorted(set(self._sizes))
            for start in range(0, min(n, max(size, N_STATIC)), size)
        ]
        # np.max keeps a NaN, Python's max would pass over it
        found = [self._errors(part) for part in (slice(n), *parts)]
        errors = np.max([*found, *self._episode_errors()], axis=0)
        if not (errors <= allowed).all():
            raise BackendError(
                f"self-test failed on {self.provider}: over {n} golden vectors the actions differ, "
                f"{difference(self.manifest.action, errors, allowed)}; the runtime computes "
                "another policy than the one exported"
            )
        return float(errors.max())

    def _errors(self, part: slice) -> np.ndarray:
        """Returns each action's difference on golden vectors computed in one call, (act_dim,)."""
        golden = {name: array[part] for name, array in self.golden.items()}
        state = golden.get("state", np.zeros((len(golden["obs"]), 0), np.float32))
        action, next_state = self.step(golden["obs"], golden["noise"], state)
        if self._state_dim:
            self._check_states(next_state, golden["next_state"])
        return np.abs(action - golden["action"]).max((0, 1))

    def _check_states(self, got: np.ndarray, expected: np.ndarray) -> None:
        """Raises BackendError where a state (n, state_dim) differs.

        A difference counts in shares of the number's largest golden value, at least 1.
        """
        largest = np.maximum(1, np.abs(self.golden["next_state"]).max(0))
        share = float((np.abs(got - expected) / largest).max())
        if not share <= FP32_SHARE:
            raise BackendError(
                f"self-test failed on {self.provider}: a state differs by {share:.3g} of its "
                f"largest golden value, allowed is {FP32_SHARE:g}; the runtime computes another "
                "policy than the one exported"
            )

    def _episode_errors(self) -> list[np.ndarray]:
        """Returns each action's difference (act_dim,) on every row of the golden episodes.

        Each episode goes on from its own states, from an empty memory on.
        """
        golden = self.golden
        errors = []
        state = np.zeros((1, self._state_dim), np.float32)
        for i in range(len(golden["obs"]) if self._state_dim else 0):
            if not golden["state"][i].any():
                state = np.zeros_like(state)
            action, state = self.step(golden["obs"][i : i + 1], golden["noise"][i : i + 1], state)
            errors.append(np.abs(action[0] - golden["action"][i]).max(0))
        return errors


def _numbers(values: Any) -> np.ndarray:
    """Returns `float_array` of an input. Raises BackendError where that refuses it."""
    try:
        return float_array(values)
    except ValueError as error:
        raise BackendError(f"an input: {error}") from error


def _check_answer(array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises BackendError unless a graph's answer is float32 of this shape."""
    if array.shape != shape or array.dtype != np.float32:
        raise BackendError(
            f"the graph answered {array.dtype} {array.shape}, expected float32 {shape}; "
            "export it again"
        )


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
        self.state = np.zeros((n, manifest.state_dim), np.float32)
        self.next_state = np.zeros_like(self.state)
        self._step = backend.step

    def run(self) -> None:
        """Computes `action` and `next_state` from `obs`, `noise` and `state`."""
        self.action[...], self.next_state[...] = self._step(self.obs, self.noise, self.state)


def inference_error(provider: str, error: Exception) -> BackendError:
    """Returns the BackendError for what a runtime raised."""
    return BackendError(f"inference failed on {provider}: {first_line(error)}")
