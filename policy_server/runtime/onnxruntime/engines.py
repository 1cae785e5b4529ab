"""Where TensorRT's engines lie, and the options that make them: built where they run, never shipped."""

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
    """Returns the name of an engine's folder; another GPU, TensorRT, graph or batch size is another engine."""
    sizes = "any" if batch is None else f"b{batch}"
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}_trt{tensorrt}_{hashlib.sha256(onnx).hexdigest()[:16]}_{sizes}"


def cache_folder() -> Path:
    """Returns the folder of all engines: $XDG_CACHE_HOME/edp-robot/engines, else ~/.cache/edp-robot/engines."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edp-robot" / "engines"


def options(folder: Path, static: bool, precision: Precision, tensorrt: int) -> dict[str, str]:
    """Returns the options of ONNX Runtime's TensorRT provider.

    TensorRT 11 builds strongly typed networks, in the precision that the graph says: there are no precision flags. 10
    (of ONNX Runtime 1.31) uses float16 and int8 only where a flag allows it. A CUDA graph needs static shapes.
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
