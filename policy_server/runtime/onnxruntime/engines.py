"""Where TensorRT's engines are kept, and the options that build them.

An engine is built on the machine that runs it, and never shipped.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from policy_server.contract.choices import Precision

TYPED_SINCE = 110_000  # TensorRT 11.0.0
FLAGS: dict[Precision, dict[str, str]] = {
    "fp32": {},
    "fp16": {"trt_fp16_enable": "1"},
    "int8": {"trt_int8_enable": "1"},
}


def key(gpu: str, tensorrt: int, onnx: bytes, batch: int | None) -> str:
    """Returns the name of an engine's folder. Each combination of the arguments has its own.

    Args:
        gpu: Name of the GPU.
        tensorrt: TensorRT's version number.
        onnx: The graph.
        batch: Fixed batch size. None: it is open.
    """
    device = re.sub(r"[^A-Za-z0-9]+", "-", gpu)
    graph = hashlib.sha256(onnx).hexdigest()[:16]
    size = "any" if batch is None else f"b{batch}"
    return f"{device}_trt{tensorrt}_{graph}_{size}"


def cache_folder() -> Path:
    """Returns the folder of all engines.

    It is $XDG_CACHE_HOME/edp-robot/engines, or ~/.cache/edp-robot/engines without that variable.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edp-robot" / "engines"


def options(folder: Path, static: bool, precision: Precision, tensorrt: int) -> dict[str, str]:
    """Returns the options of ONNX Runtime's TensorRT provider.

    TensorRT 11 builds strongly typed networks in the graph's own precision, without flags.
    TensorRT 10 (of ONNX Runtime 1.31) uses float16 and int8 only if a flag allows it.

    Args:
        folder: Where the engine is kept.
        static: Whether the shapes are fixed. A CUDA graph needs that.
        precision: Precision of the graph.
        tensorrt: TensorRT's version number.
    """
    return {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_cuda_graph_enable": "1" if static else "0",
        **(FLAGS[precision] if tensorrt < TYPED_SINCE else {}),
    }
