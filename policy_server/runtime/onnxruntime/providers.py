"""Opens ONNX Runtime sessions on exactly the provider that is asked for."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from policy_server.contract.choices import Precision
from policy_server.contract.errors import BackendError, first_line
from policy_server.contract.onnx_import import import_onnxruntime
from policy_server.runtime.onnxruntime import engines, gpu

ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def import_runtime() -> Any:
    """Returns the onnxruntime module with its log switched off.

    Raises:
        BackendError: It is not installed.
    """
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime is not installed; expected: pip install 'edp-robot[serve]'"
        ) from error
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def check_available(runtime: Any, provider: str) -> None:
    """Raises BackendError if `provider` cannot run here, saying what is missing."""
    there = runtime.get_available_providers()
    built_in = [name for name, ort_name in ORT_NAMES.items() if ort_name in there]
    this = f"this ONNX Runtime {runtime.__version__}"
    if provider not in built_in:
        raise BackendError(
            f"provider {provider} is not in {this}; it has {built_in}; "
            "pip install onnxruntime-gpu has all three"
        )
    if provider == "cpu":
        return
    if not gpu.present():
        raise BackendError(
            f"provider {provider} needs an NVIDIA GPU and its driver, "
            f"and none of {', '.join(gpu.DEVICES)} is here; available: cpu"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        runtime.preload_dlls()  # the libraries that pip installed
    gpu.preload_tensorrt()
    if lacking := gpu.missing_libraries(provider):
        raise BackendError(f"provider {provider} cannot load {'; '.join(lacking)}; available: cpu")
    if complaint := gpu.complaint(Path(runtime.__file__).parent / "capi", provider):
        raise BackendError(
            f"provider {provider} of {this} does not load: {complaint}; "
            "expected the versions it was built with; available: cpu"
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
        n_threads: Threads inside one operator on the CPU. If there are several, each is pinned to a
            core.
        batch: Name and size of the batch dimension, to fix it. None: it stays as it is.
        precision: Precision of the graph.

    Raises:
        BackendError: The graph is refused, or the provider does not load.
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
            f"provider {provider} did not load "
            "(its libraries are missing or do not fit the driver); "
            f"ONNX Runtime fell back to {session.get_providers()}; available: cpu"
        )
    return session


def session_options(runtime: Any, n_threads: int, batch: tuple[str, int] | None) -> Any:
    """Returns the session's options: one operator at a time, and no spinning threads.

    Args:
        runtime: The onnxruntime module.
        n_threads: Threads inside one operator on the CPU.
        batch: Name and size of the batch dimension, to fix it. None: it stays as it is.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if pinned := affinities(n_threads):
        options.add_session_config_entry("session.intra_op_thread_affinities", pinned)
    if batch is not None:
        options.add_free_dimension_override_by_name(*batch)
    return options


def affinities(n_threads: int) -> str:
    """Returns the cores of the threads beside the caller's, as ONNX Runtime counts them (from 1).

    Returns "" if there is one thread, or there are fewer cores than threads.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if n_threads == 1 or len(cores) < n_threads:
        return ""
    return ";".join(str(core + 1) for core in cores[1:n_threads])


def provider_options(
    provider: str, onnx: bytes, batch: tuple[str, int] | None, precision: Precision = "fp32"
) -> tuple[str, dict[str, str]]:
    """Returns ONNX Runtime's name of the provider and its options.

    CUDA computes without TF32, which rounds the factors of a float32 product to 10 bits: no
    self-test would pass. TensorRT's engines get a folder of their own.

    Args:
        provider: cpu, cuda or tensorrt.
        onnx: The graph.
        batch: Name and size of the batch dimension, or None if it is open. A fixed one gets a CUDA
            graph.
        precision: Precision of the graph.
    """
    static = batch is not None
    if provider == "cuda":
        graph = "1" if static else "0"
        return ORT_NAMES[provider], {"device_id": "0", "enable_cuda_graph": graph, "use_tf32": "0"}
    if provider == "tensorrt":
        version = gpu.tensorrt_version()
        folder = engines.cache_folder() / engines.key(gpu.name(), version, onnx, batch and batch[1])
        folder.mkdir(parents=True, exist_ok=True)
        return ORT_NAMES[provider], engines.options(folder, static, precision, version)
    return ORT_NAMES[provider], {}
