"""Running a policy's ONNX graph: the only file that knows ONNX Runtime, imported when first needed.

A provider that is asked for by name is used or refused, never replaced in silence.
"""

import time
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from policy_server.bundle import ONNX, Bundle

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
_ORT_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class BackendError(RuntimeError):
    """The runtime, a provider or the graph is not what was asked for; the message says what is there."""


class OnnxPolicy:
    """A raw ONNX policy: obs and noise in, action chunk out, float32.

    Args:
        onnx: Path of the graph, or its bytes.
        provider: cpu, cuda or tensorrt; auto takes cuda where it loads, else cpu.
        n_threads: Threads inside one operator on the CPU.

    Raises:
        BackendError: The runtime or the provider is missing, or the graph is not a policy.
    """

    def __init__(self, onnx: str | Path | bytes, provider: Provider = "cpu", n_threads: int = 1):
        self.provider, self._session = _open_session(onnx, provider, n_threads)
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        types = {node.type for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        if set(inputs) not in ({"obs"}, {"obs", "noise"}) or set(outputs) != {"action"} or types != {"tensor(float)"}:
            raise BackendError(
                f"graph has inputs {inputs}, outputs {outputs}, types {sorted(types)}; expected float32 inputs obs and "
                "noise (noise may be missing) and output action"
            )
        self.shapes = {**inputs, **outputs}
        self._has_noise = "noise" in inputs
        self._one_by_one = inputs["obs"][0] == 1

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns action (n, horizon, act_dim) float32.

        Args:
            obs: (n, obs_dim) float32.
            noise: (n, latent_dim) float32; ignored where the graph has no noise input.

        Raises:
            BackendError: The runtime refused, for instance because a shape is wrong.
        """
        if self._one_by_one and len(obs) > 1:
            rows = [self.act(obs[i : i + 1], noise[i : i + 1]) for i in range(len(obs))]
            return np.concatenate(rows)
        feeds = {"obs": np.ascontiguousarray(obs, dtype=np.float32)}
        if self._has_noise:
            feeds["noise"] = np.ascontiguousarray(noise, dtype=np.float32)
        try:
            return self._session.run(("action",), feeds)[0]
        except Exception as error:  # ONNX Runtime raises several private types
            raise BackendError(f"inference failed on {self.provider}: {_first_line(error)}") from error


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
    """

    def __init__(self, bundle: Bundle, provider: Provider = "auto", n_threads: int = 1):
        self.manifest = bundle.manifest
        self.golden = bundle.golden()
        onnx = bundle.read(ONNX)
        self._policy = OnnxPolicy(onnx, "cpu" if provider == "auto" else provider, n_threads)
        self._check_graph()
        if provider == "auto" and _gpu_present():
            self._policy = self._faster(onnx, n_threads)
        self.provider = self._policy.provider

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns action (n, horizon, act_dim) float32.

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim), standard normal.

        Raises:
            BackendError: A shape differs from the manifest, or the runtime failed.
        """
        n, manifest = len(obs), self.manifest
        if obs.shape != (n, manifest.obs_dim) or noise.shape != (n, manifest.latent_dim):
            raise BackendError(
                f"obs {obs.shape}, noise {noise.shape}: expected ({n}, {manifest.obs_dim}) "
                f"and ({n}, {manifest.latent_dim})"
            )
        action = self._policy.act(obs, noise)
        if action.shape != (n, manifest.horizon, manifest.act_dim):
            expected = (n, manifest.horizon, manifest.act_dim)
            raise BackendError(f"graph answered action {action.shape}, manifest says {expected}; export it again")
        return action

    def self_test(self, atol: float = 1e-4) -> float:
        """Returns the largest difference between the golden actions and what this machine computes.

        Raises:
            BackendError: The difference is above `atol`, or not a number: this machine must not serve the policy.
        """
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

    def _faster(self, onnx: bytes, n_threads: int) -> OnnxPolicy:
        """Returns the policy on CUDA where that loads and answers one obs faster than the CPU, else on the CPU."""
        try:
            cuda = OnnxPolicy(onnx, "cuda", n_threads)
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


def load(bundle: Bundle | str | Path, provider: Provider = "auto", n_threads: int = 1) -> Backend:
    """Returns the bundle's policy, ready to run on `provider`.

    Args:
        bundle: A bundle, or its path.
        provider: auto, cpu, cuda or tensorrt.
        n_threads: Threads inside one operator on the CPU.

    Raises:
        BundleError: The bundle is refused.
        BackendError: Runtime, provider or graph are not what is needed.
    """
    return Backend(bundle if isinstance(bundle, Bundle) else Bundle.load(bundle), provider, n_threads)


def _import_runtime() -> Any:
    """Returns the onnxruntime module, its log quiet. Raises BackendError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("ONNX Runtime is not installed; expected: pip install 'edp-robot[serve]'") from error
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def _open_session(onnx: str | Path | bytes, provider: Provider, n_threads: int) -> tuple[str, Any]:
    """Returns the provider in use and a session on it."""
    if provider not in get_args(Provider):
        raise BackendError(f"provider {provider!r}: expected one of {', '.join(get_args(Provider))}")
    if provider == "auto":
        try:
            return _open_session(onnx, "cuda", n_threads) if _gpu_present() else _open_session(onnx, "cpu", n_threads)
        except BackendError:
            return _open_session(onnx, "cpu", n_threads)
    runtime = _import_runtime()
    built_in = [name for name, ort_name in _ORT_NAMES.items() if ort_name in runtime.get_available_providers()]
    if provider not in built_in:
        raise BackendError(f"provider {provider} is not in this ONNX Runtime {runtime.__version__}; it has {built_in}")
    if provider != "cpu" and not _gpu_present():
        raise BackendError(f"provider {provider} needs an NVIDIA GPU and this machine shows none; available: cpu")
    return provider, _create(runtime, onnx, provider, n_threads)


def _create(runtime: Any, onnx: str | Path | bytes, provider: str, n_threads: int) -> Any:
    """Returns a session on exactly `provider` (other operators may fall to the CPU)."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != "cpu" and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()
    source = onnx if isinstance(onnx, bytes) else str(onnx)
    try:
        session = runtime.InferenceSession(source, options, providers=[_ORT_NAMES[provider]])
    except Exception as error:  # ONNX Runtime raises several private types
        raise BackendError(f"ONNX Runtime refused the graph on {provider}: {_first_line(error)}") from error
    if session.get_providers()[0] != _ORT_NAMES[provider]:
        raise BackendError(
            f"provider {provider} did not load (its libraries are missing or do not fit the driver); available: cpu"
        )
    return session


def _gpu_present() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists() or Path("/dev/dxg").exists()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:400]
