"""A bundle of the size of a student (3 x 256 MLP) with random weights, for measuring latency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from policy_server.contract.bundle import Bundle, save
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest
from policy_server.contract.onnx_import import import_onnxruntime

OBS_DIM = 20
ACT_DIM = 5
HORIZON = 10
WIDTH = 256
N_LAYERS = 3
LATENT_DIM = HORIZON * ACT_DIM


def graph() -> bytes:
    """Returns the ONNX graph action = MLP(obs, noise), with ReLU inside and tanh at the end."""
    rng = np.random.default_rng(0)
    widths = [OBS_DIM + LATENT_DIM, *[WIDTH] * N_LAYERS, LATENT_DIM]
    nodes = [helper.make_node("Concat", ["obs", "noise"], ["x0"], axis=1)]
    held = {"shape": np.array([-1, HORIZON, ACT_DIM])}
    for i, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        held[f"w{i}"] = (rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)).astype(np.float32)
        held[f"b{i}"] = (0.1 * rng.standard_normal(n_out)).astype(np.float32)
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [f"y{i}"]))
        nodes.append(helper.make_node("Relu" if i < N_LAYERS else "Tanh", [f"y{i}"], [f"x{i + 1}"]))
    nodes.append(helper.make_node("Reshape", [f"x{N_LAYERS + 1}", "shape"], ["action"]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("obs", OBS_DIM), ("noise", LATENT_DIM))
    ]
    output = helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", HORIZON, ACT_DIM])
    weights = [numpy_helper.from_array(value, name) for name, value in held.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "student", inputs, [output], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def student(path: Path) -> Bundle:
    """Writes the bundle to `path` and returns it."""
    onnx_bytes = graph()
    rng = np.random.default_rng(1)
    obs = rng.standard_normal((16, OBS_DIM), dtype=np.float32)
    noise = rng.standard_normal((16, LATENT_DIM), dtype=np.float32)
    session = import_onnxruntime().InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    action = np.asarray(session.run(None, {"obs": obs, "noise": noise})[0])
    inf = float("inf")
    state = Field("state", 0, OBS_DIM, "1", low=(-inf,) * OBS_DIM, high=(inf,) * OBS_DIM)
    target = Field(
        "target",
        0,
        ACT_DIM,
        "1",
        low=(-1.0,) * ACT_DIM,
        high=(1.0,) * ACT_DIM,
        max_rate=(inf,) * ACT_DIM,
    )
    return save(
        path,
        Manifest(
            name="student-sized",
            task="none",
            source_commit="",
            config_hash="",
            obs=(state,),
            action=(target,),
            horizon=HORIZON,
            n_action_steps=HORIZON,
            control_period_s=0.01,
            latent_dim=LATENT_DIM,
            sampler={"method": "student", "batch_sizes": [1, 4, 8, 16]},
        ),
        onnx_bytes=onnx_bytes,
        golden={"obs": obs, "noise": noise, "action": action},
    )
