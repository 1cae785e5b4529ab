"""ONNX Runtime sessions on exactly the provider that was asked for."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from policy_server.contract.choices import Precision
from policy_server.contract.errors import BackendError
from policy_server.runtime.onnxruntime import engines, gpu

ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def import_runtime() -> Any:
    """Returns the onnxruntime module, its log quiet. Raises BackendError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime is not installed; expected: pip install 'edp-robot[serve]'"
        ) from error
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def check_available(runtime: Any, provider: str) -> None:
    """Raises BackendError where `provider` cannot run here; the message says what is missing, and how to get it."""
    built_in = [
        name
        for name, ort_name in ORT_NAMES.items()
        if ort_name in runtime.get_available_providers()
    ]
    if provider not in built_in:
        raise BackendError(
            f"provider {provider} is not in this ONNX Runtime {runtime.__version__}; it has {built_in}; pip install "
            "onnxruntime-gpu has all three"
        )
    if provider == "cpu":
        return
    if not gpu.present():
        raise BackendError(
            f"provider {provider} needs an NVIDIA GPU and its driver, and none of {', '.join(gpu.DEVICES)} is here; "
            "available: cpu"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        runtime.preload_dlls()  # the libraries that pip installed
    gpu.preload_tensorrt()
    if lacking := gpu.missing_libraries(provider):
        raise BackendError(f"provider {provider} cannot load {'; '.join(lacking)}; available: cpu")
    if complaint := gpu.complaint(Path(runtime.__file__).parent / "capi", provider):
        raise BackendError(
            f"provider {provider} of this ONNX Runtime {runtime.__version__} does not load: {complaint}; expected the "
            "versions it was built with; available: cpu"
        )


def open_session(
    runtime: Any,
    onnx: bytes,
    provider: str,
    n_threads: int,
    batch: tuple[str, int] | None = None,
    precision: Precision = "fp32",
) -> Any:
    """Returns a session on exactly `provider`.

    Args:
        runtime: The onnxruntime module.
        onnx: The graph.
        provider: cpu, cuda or tensorrt.
        n_threads: Inside one operator on the CPU; of more than one, each is pinned to a core.
        batch: Name and size of the batch dimension, to fix it; None leaves it as it is.
        precision: Of the graph.

    Raises:
        BackendError: The graph is refused, or the provider did not load.
    """
    settings = session_options(runtime, n_threads, batch)
    chosen = [provider_options(provider, onnx, batch, precision)]
    try:
        session = runtime.InferenceSession(onnx, settings, providers=chosen, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises several private types
        raise BackendError(
            f"ONNX Runtime refused the graph on {provider}: {first_line(error)}"
        ) from error
    if session.get_providers()[0] != ORT_NAMES[provider]:
        raise BackendError(
            f"provider {provider} did not load (its libraries are missing or do not fit the driver); ONNX Runtime fell "
            f"back to {session.get_providers()}; available: cpu"
        )
    return session


def session_options(runtime: Any, n_threads: int, batch: tuple[str, int] | None) -> Any:
    """Returns the options: one operator at a time, no spinning threads, the batch dimension fixed where asked."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if pinned := affinities(n_threads):
        options.add_session_config_entry("session.intra_op_thread_affinities", pinned)
    if batch is not None:
        options.add_free_dimension_override_by_name(*batch)
    return options


def affinities(n_threads: int) -> str:
    """Returns the cores of the threads beside the caller's own, as ONNX Runtime counts them (from 1); '' for none."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (
        ";".join(str(core + 1) for core in cores[1:n_threads])
        if len(cores) >= n_threads > 1
        else ""
    )


def provider_options(
    provider: str, onnx: bytes, batch: tuple[str, int] | None, precision: Precision = "fp32"
) -> tuple[str, dict[str, str]]:
    """Returns the provider and its options; TensorRT's engines get a folder of their own.

    Without TF32 on CUDA: that would round the factors of a float32 product to 10 bits, which no self-test would pass.
    """
    if provider == "cuda":
        graph = "0" if batch is None else "1"
        return ORT_NAMES[provider], {"device_id": "0", "enable_cuda_graph": graph, "use_tf32": "0"}
    if provider == "tensorrt":
        version = gpu.tensorrt_version()
        folder = engines.cache_folder() / engines.key(gpu.name(), version, onnx, batch and batch[1])
        folder.mkdir(parents=True, exist_ok=True)
        return ORT_NAMES[provider], engines.options(folder, batch is not None, precision, version)
    return ORT_NAMES[provider], {}


def first_line(error: Exception) -> str:
    """Returns what an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:400]
