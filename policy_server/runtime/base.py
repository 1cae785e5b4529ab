"""A policy's graph, ready to run: one interface over ONNX Runtime's CPU, CUDA and TensorRT (`policy_server.runtimes`).

A provider that is asked for by name is used or refused, never replaced in silence.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from policy_server.contract.bundle import Bundle, graph_name
from policy_server.contract.choices import Precision, Provider
from policy_server.contract.errors import BackendError
from policy_server.runtime.onnxruntime import gpu
from policy_server.runtime.onnxruntime.bound import BoundGraph
from policy_server.runtime.onnxruntime.onnx_policy import OnnxPolicy

__all__ = ["Backend", "BackendError", "OnnxPolicy", "Provider", "load"]

FP32_ATOL = 1e-4  # of the golden vectors, in physical units
N_STATIC = 2  # golden vectors that each static batch size computes again, at least


class Backend:
    """A bundle's policy, ready to run.

    Attributes:
        manifest: Of the bundle.
        provider: Actually in use: cpu, cuda or tensorrt.
        golden: The bundle's golden arrays.

    Args:
        bundle: The bundle.
        provider: cpu, cuda, tensorrt, or auto: of cpu and cuda, the one that is faster here for one obs.
        n_threads: Threads inside one operator on the CPU.
        precision: fp32, or fp16 or int8 where the bundle has it.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: Provider = "auto",
        n_threads: int = 1,
        precision: Precision = "fp32",
    ):
        if precision not in bundle.precisions:
            raise BackendError(
                f"precision {precision!r} is not in the bundle; it has {', '.join(bundle.precisions)}; "
                "`edp calibrate quant` makes others"
            )
        self.manifest = bundle.manifest
        self.precision: Precision = precision
        self.golden = bundle.golden()
        onnx, sizes = bundle.read(graph_name(precision)), batch_sizes(bundle)
        self._obs_dim, self._latent_dim = self.manifest.obs_dim, self.manifest.latent_dim
        self._answer = (self.manifest.horizon, self.manifest.act_dim)
        self._policy = OnnxPolicy(
            onnx, "cpu" if provider == "auto" else provider, n_threads, sizes, precision
        )
        self._check_graph()
        if provider == "auto" and gpu.present():
            self._policy = self._faster(onnx, n_threads, sizes)
        self.provider = self._policy.provider

    def act(self, obs: np.ndarray, noise: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns action (n, horizon, act_dim) float32.

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim), standard normal.
            out: Where to write the action; then nothing is allocated. None for a new array.

        Raises:
            BackendError: A shape differs from the manifest, or the runtime failed.
        """
        n, obs_dim, latent_dim = len(obs), self._obs_dim, self._latent_dim
        if obs.shape != (n, obs_dim) or noise.shape != (n, latent_dim):
            raise BackendError(
                f"obs {obs.shape}, noise {noise.shape}: expected ({n}, {obs_dim}) and ({n}, {latent_dim})"
            )
        action = self._policy.act(obs, noise, out)
        if action.shape != (n, *self._answer):
            expected = (n, *self._answer)
            raise BackendError(
                f"graph answered action {action.shape}, manifest says {expected}; export it again"
            )
        return action

    def buffers(self, n: int) -> BoundGraph | None:
        """Returns the graph that is bound to buffers of `n` rows, or None where there is none of that size."""
        return self._policy.buffers(n)

    def self_test(self, atol: float | None = None) -> float:
        """Returns the largest difference between the golden actions and what this machine computes.

        All golden vectors are computed in one call, and the first of them again by each static batch size, whose
        kernels, and on a GPU whose captured graph, are not those of the dynamic one.

        Args:
            atol: Allowed; None for FP32_ATOL, and of another precision half as much again as it differed when it was
                made.

        Raises:
            BackendError: The difference is above `atol`, or not a number: this machine must not serve the policy.
        """
        if atol is None:
            made = self.manifest.parity.get(self.precision, {}) if self.precision != "fp32" else {}
            atol = FP32_ATOL + 1.5 * float(made.get("golden_max_abs_error", 0.0))
        n = len(self.golden["obs"])
        parts = [
            slice(i, i + size)
            for size in self._policy.sizes
            for i in range(0, min(n, max(size, N_STATIC)), size)
        ]
        error = float(
            np.max([self._error(part) for part in (slice(n), *parts)])
        )  # Python's max would pass over NaN
        if not error <= atol:
            raise BackendError(
                f"self-test failed on {self.provider}: max abs error {error:.3g}, expected at most {atol:g} on "
                f"{n} golden vectors; the runtime computes another policy than the one exported"
            )
        return error

    def _error(self, part: slice) -> float:
        """Returns the largest difference on some of the golden vectors, computed in one call."""
        obs, noise, action = (self.golden[name][part] for name in ("obs", "noise", "action"))
        return float(np.abs(self.act(obs, noise) - action).max())

    def _check_graph(self) -> None:
        """Raises BackendError where the graph's shapes contradict the manifest; symbolic dimensions may be anything."""
        manifest = self.manifest
        expected = {"obs": (manifest.obs_dim,), "action": (manifest.horizon, manifest.act_dim)}
        if manifest.latent_dim:
            expected["noise"] = (manifest.latent_dim,)
        if set(expected) != set(self._policy.shapes):
            raise BackendError(
                f"graph has {sorted(self._policy.shapes)}, "
                f"manifest (latent_dim {manifest.latent_dim}) needs {sorted(expected)}"
            )
        for name, shape in expected.items():
            batch, *found = self._policy.shapes[name] or [None]
            fits = len(found) == len(shape) and all(
                not isinstance(dim, int) or dim == want
                for dim, want in zip(found, shape, strict=True)
            )
            if not fits or (isinstance(batch, int) and batch != 1):
                raise BackendError(
                    f"graph's {name} is {self._policy.shapes[name]}, "
                    f"manifest says {['batch', *shape]} (batch free or 1)"
                )

    def _faster(self, onnx: bytes, n_threads: int, sizes: Sequence[int]) -> OnnxPolicy:
        """Returns the policy on CUDA where that loads and answers one obs faster than the CPU, else on the CPU."""
        try:
            cuda = OnnxPolicy(onnx, "cuda", n_threads, sizes, self.precision)
            return min((self._policy, cuda), key=self._median_s)
        except BackendError:
            return self._policy

    def _median_s(self, policy: OnnxPolicy) -> float:
        """Returns the median time of one golden obs [s]."""
        obs, noise, times = self.golden["obs"][:1], self.golden["noise"][:1], []
        for _ in range(30):
            start = time.perf_counter()
            policy.act(obs, noise)
            times.append(time.perf_counter() - start)
        return float(np.median(times[10:]))


def batch_sizes(bundle: Bundle) -> list[int]:
    """Returns the batch sizes that the bundle wants to be ready for. Raises BackendError where that is no such list."""
    sizes = bundle.manifest.sampler.get("batch_sizes", [1])
    if not isinstance(sizes, list) or not all(
        type(size) is int and 1 <= size <= 1024 for size in sizes
    ):
        raise BackendError(
            f"sampler.batch_sizes {sizes!r}: expected a list of whole numbers from 1 to 1024"
        )
    return sizes


def load(
    bundle: Bundle | str | Path,
    provider: Provider = "auto",
    n_threads: int = 1,
    precision: Precision = "fp32",
) -> Backend:
    """Returns the bundle's policy, ready to run on `provider`.

    Args:
        bundle: A bundle, or its path.
        provider: auto, cpu, cuda or tensorrt.
        n_threads: Threads inside one operator on the CPU.
        precision: fp32, fp16 or int8.

    Raises:
        BundleError: The bundle is refused.
        BackendError: Runtime, provider, precision or graph are not what is needed.
    """
    return Backend(
        bundle if isinstance(bundle, Bundle) else Bundle.load(bundle),
        provider,
        n_threads,
        precision,
    )
