"""A policy's graph, ready to run: one interface over ONNX Runtime's CPU, CUDA and TensorRT (`policy_server.runtimes`).

A provider that is asked for by name is used or refused, never replaced in silence.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from policy_server.bundle import Bundle, Precision, graph_name
from policy_server.errors import BackendError
from policy_server.runtimes import gpu
from policy_server.runtimes.bound import BoundGraph
from policy_server.runtimes.sessions import check_available, first_line, import_runtime, open_session

__all__ = ["Backend", "BackendError", "OnnxPolicy", "Provider", "load"]

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
FP32_ATOL = 1e-4  # of the golden vectors, in physical units


class OnnxPolicy:
    """A raw ONNX policy: obs and noise in, action chunk out, float32. Not for several threads at once.

    Each of `batch_sizes` gets a session of static shape with bound buffers; any other number of rows goes to the
    smallest that holds it, or to the dynamic graph.

    Args:
        onnx: Path of the graph, or its bytes.
        provider: cpu, cuda or tensorrt; auto takes cuda where it runs, else cpu.
        n_threads: Threads inside one operator on the CPU; of more than one, each is pinned to a core.
        batch_sizes: Numbers of rows to be ready for.

    Raises:
        BackendError: The runtime or the provider is missing, or the graph is not a policy.
    """

    def __init__(
        self,
        onnx: str | Path | bytes,
        provider: Provider = "cpu",
        n_threads: int = 1,
        batch_sizes: Sequence[int] = (1,),
    ):
        graph = onnx if isinstance(onnx, bytes) else Path(onnx).read_bytes()
        runtime = import_runtime()
        self.provider = _resolved(runtime, provider)
        self._session = open_session(runtime, graph, self.provider, n_threads)
        self.shapes = _ports(self._session)
        self._has_noise, first = "noise" in self.shapes, self.shapes["obs"][0]
        self._one_by_one = first == 1
        dims = {name: self.shapes[name][-1] for name in ("obs", "noise") if name in self.shapes}
        self._bound: dict[int, BoundGraph] = {}
        if all(isinstance(dim, int) for dim in dims.values()) and (isinstance(first, str) or self._one_by_one):
            for size in (1,) if self._one_by_one else sorted(set(batch_sizes)):
                static = self._session
                if not self._one_by_one:
                    static = open_session(runtime, graph, self.provider, n_threads, (first, size))
                self._bound[size] = _bind(runtime, static, dims, size, self.provider)

    def act(self, obs: np.ndarray, noise: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns action (n, horizon, act_dim) float32.

        Args:
            obs: (n, obs_dim) float32.
            noise: (n, latent_dim) float32; ignored where the graph has no noise input.
            out: Where to write the action; then nothing is allocated. None for a new array.

        Raises:
            BackendError: The runtime refused, for instance because a shape is wrong.
        """
        n = len(obs)
        bound = self._bound.get(n) or next((b for size, b in self._bound.items() if size > n), None)
        try:
            if bound is not None:
                return bound.act(obs, noise, out)
            if self._one_by_one and n > 1:
                rows = np.concatenate([self.act(obs[i : i + 1], noise[i : i + 1]) for i in range(n)])
                return _written(rows, out)
            feeds = {"obs": np.ascontiguousarray(obs, dtype=np.float32)}
            if self._has_noise:
                feeds["noise"] = np.ascontiguousarray(noise, dtype=np.float32)
            return _written(self._session.run(("action",), feeds)[0], out)
        except Exception as error:  # ONNX Runtime raises several private types
            raise BackendError(f"inference failed on {self.provider}: {first_line(error)}") from error


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

    def __init__(self, bundle: Bundle, provider: Provider = "auto", n_threads: int = 1, precision: Precision = "fp32"):
        if precision not in bundle.precisions:
            raise BackendError(
                f"precision {precision!r} is not in the bundle; it has {', '.join(bundle.precisions)}; "
                "`edp calibrate quant` makes others"
            )
        self.manifest, self.precision = bundle.manifest, precision
        self.golden = bundle.golden()
        self._obs_dim, self._latent_dim = self.manifest.obs_dim, self.manifest.latent_dim
        self._action_shape = (self.manifest.horizon, self.manifest.act_dim)
        onnx, sizes = bundle.read(graph_name(precision)), batch_sizes(bundle)
        self._policy = OnnxPolicy(onnx, "cpu" if provider == "auto" else provider, n_threads, sizes)
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
        n = len(obs)
        if obs.shape != (n, self._obs_dim) or noise.shape != (n, self._latent_dim):
            raise BackendError(
                f"obs {obs.shape}, noise {noise.shape}: expected ({n}, {self._obs_dim}) and ({n}, {self._latent_dim})"
            )
        action = self._policy.act(obs, noise, out)
        if action.shape[1:] != self._action_shape:
            expected = (n, *self._action_shape)
            raise BackendError(f"graph answered action {action.shape}, manifest says {expected}; export it again")
        return action

    def self_test(self, atol: float | None = None) -> float:
        """Returns the largest difference between the golden actions and what this machine computes.

        Args:
            atol: Allowed; None for FP32_ATOL, and of another precision half as much again as it differed when it was
                made.

        Raises:
            BackendError: The difference is above `atol`, or not a number: this machine must not serve the policy.
        """
        if atol is None:
            made = self.manifest.parity.get(self.precision, {}) if self.precision != "fp32" else {}
            atol = FP32_ATOL + 1.5 * float(made.get("golden_max_abs_error", 0.0))
        action = self.act(self.golden["obs"], self.golden["noise"])
        error = float(np.abs(action - self.golden["action"]).max())
        if not error <= atol:
            raise BackendError(
                f"self-test failed on {self.provider}: max abs error {error:.3g}, expected at most {atol:g} on "
                f"{len(action)} golden vectors; the runtime computes another policy than the one exported"
            )
        return error

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
                not isinstance(dim, int) or dim == want for dim, want in zip(found, shape, strict=True)
            )
            if not fits or (isinstance(batch, int) and batch != 1):
                raise BackendError(
                    f"graph's {name} is {self._policy.shapes[name]}, "
                    f"manifest says {['batch', *shape]} (batch free or 1)"
                )

    def _faster(self, onnx: bytes, n_threads: int, sizes: Sequence[int]) -> OnnxPolicy:
        """Returns the policy on CUDA where that loads and answers one obs faster than the CPU, else on the CPU."""
        try:
            cuda = OnnxPolicy(onnx, "cuda", n_threads, sizes)
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
    if not isinstance(sizes, list) or not all(type(size) is int and 1 <= size <= 1024 for size in sizes):
        raise BackendError(f"sampler.batch_sizes {sizes!r}: expected a list of whole numbers from 1 to 1024")
    return sizes


def load(
    bundle: Bundle | str | Path, provider: Provider = "auto", n_threads: int = 1, precision: Precision = "fp32"
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
    return Backend(bundle if isinstance(bundle, Bundle) else Bundle.load(bundle), provider, n_threads, precision)


def _bind(runtime, session, dims: dict[str, int], size: int, provider: str) -> BoundGraph:
    """Returns the session with buffers for `size` rows. Raises BackendError where it does not run."""
    try:
        return BoundGraph(runtime, session, dims, size, "cpu" if provider == "cpu" else "cuda")
    except Exception as error:  # ONNX Runtime raises several private types
        raise BackendError(f"inference failed on {provider}: {first_line(error)}") from error


def _written(action: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Returns `out` with the action in it, or the action itself where there is none."""
    if out is None:
        return action
    np.copyto(out, action)
    return out


def _resolved(runtime, provider: Provider) -> str:
    """Returns the provider to use. Raises BackendError for one that does not exist or cannot run here."""
    if provider not in get_args(Provider):
        raise BackendError(f"provider {provider!r}: expected one of {', '.join(get_args(Provider))}")
    if provider == "auto":
        try:
            check_available(runtime, "cuda")
            return "cuda"
        except BackendError:
            return "cpu"
    check_available(runtime, provider)
    return provider


def _ports(session) -> dict[str, list]:
    """Returns the shapes of inputs and output by name. Raises BackendError where they are not a policy's."""
    nodes = (*session.get_inputs(), *session.get_outputs())
    inputs = {node.name: node.shape for node in session.get_inputs()}
    outputs = {node.name: node.shape for node in session.get_outputs()}
    types = {node.type for node in nodes}
    if set(inputs) not in ({"obs"}, {"obs", "noise"}) or set(outputs) != {"action"} or types != {"tensor(float)"}:
        raise BackendError(
            f"graph has inputs {inputs}, outputs {outputs}, types {sorted(types)}; expected float32 inputs obs and "
            "noise (noise may be missing) and output action"
        )
    return {**inputs, **outputs}
