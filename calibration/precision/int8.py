"""Puts the matrix products of a policy's graph into int8 (QDQ: QuantizeLinear, DequantizeLinear).

These choices gave the best action error and closed-loop return on trained arm-press policies:

- Ranges are the smallest and the largest value seen. Clipping to a percentile costs more than it
  gains.
- Layers that read no other layer's output stay float32. One scale over observation, noise and time
  is too coarse.
- The inputs of products are rounded, their results are not.
- Weights take 7 of their 8 bits. CPUs without VNNI add pairs of products in 16 bits, and with 8
  bits these sums overflow in silence. With 7 bits every machine computes the same.
- Activations are symmetric (zero point 0), as TensorRT asks.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibration.file import CalibrationError
from calibration.precision.layers import (
    load_onnx,
    load_quantization,
    read_graph,
    with_layer_upstream,
    write_graph,
)

METHOD = "minmax"
QUANTISED = ("MatMul", "Gemm")
BATCH = 64
OPTIONS = {"ActivationSymmetric": True, "OpTypesToExcludeOutputQuantization": list(QUANTISED)}


def to_int8(graph: bytes, obs: np.ndarray, noise: np.ndarray) -> bytes:
    """Returns the graph in QDQ form.

    It holds the whole sampler, so each denoising step gets its own scales.

    Args:
        graph: float32, (obs, noise) -> action.
        obs: (n, obs_dim) observations that the policy meets.
        noise: (n, latent_dim), standard normal.

    Raises:
        CalibrationError: There is no row of data, or no layer to quantise.
    """
    if not len(obs):
        raise CalibrationError(
            "int8: 0 rows of calibration data; expected obs that the policy meets, not random ones"
        )
    onnx = load_onnx()
    quantization = load_quantization()
    model = read_graph(graph)
    nodes = model.graph.node
    behind = with_layer_upstream(nodes)
    wanted = [n.name for i, n in enumerate(nodes) if n.op_type in QUANTISED and i in behind]
    if not wanted:
        raise CalibrationError(
            f"int8: no {' or '.join(QUANTISED)} behind the first layer, which stays float32"
        )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            path,
            _reader(model, obs, noise),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=wanted,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            reduce_range=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options=OPTIONS,
        )
        return write_graph(onnx.load(path))


def _reader(model: Any, obs: np.ndarray, noise: np.ndarray) -> Any:
    """Returns a CalibrationDataReader over the rows, in the batches that the graph takes."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    size = 1 if shapes["obs"][0].dim_value == 1 else BATCH
    feeds = {"obs": obs.astype(np.float32), "noise": noise.astype(np.float32)}
    batches = iter(
        {name: feeds[name][start : start + size] for name in shapes}
        for start in range(0, len(obs), size)
    )

    class Reader(load_quantization().CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            """Returns the next batch by input, None after the last."""
            return next(batches, None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser's advice, which it writes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
