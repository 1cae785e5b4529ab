"""Policy graphs made by hand, and bundles around them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from policy_server.contract.bundle import save
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest
from policy_server.runtime.onnxruntime import OnnxPolicy


def make_graph(nodes, constants, sizes=(2, 3, 3), horizon=1):
    """Returns the ONNX bytes of a policy.

    Args:
        nodes: (operator, inputs, output) each; the last one makes `command` (batch, horizon *
            act_dim).
        constants: Values by name.
        sizes: obs_dim, latent_dim, act_dim.
        horizon: Commands of one answer.
    """
    obs_dim, latent_dim, act_dim = sizes
    shaped = (("obs", obs_dim), ("noise", latent_dim))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in shaped
    ]
    dims = ["batch", horizon, act_dim]
    output = helper.make_tensor_value_info("action", TensorProto.FLOAT, dims)
    made = [helper.make_node(op, names.split(), [result]) for op, names, result in nodes]
    made.append(helper.make_node("Reshape", ["command", "shape"], ["action"]))
    tensors = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    tensors["shape"] = np.array([-1, horizon, act_dim])
    weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(made, "hand-made", inputs, [output], weights)
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def modes_graph(third=1.0):
    """Returns a policy that hits the first mode of task `modes` from every context, by sines.

    Args:
        third: Value of a channel that carries no information. It is in the input of the second
            layer, and makes the int8 levels of that layer coarser.
    """
    nodes = [
        ("Gemm", "obs first bias", "hidden"),
        ("Gemm", "hidden second shift", "angle"),
        ("Mul", "noise little", "jitter"),
        ("Add", "angle jitter", "moved"),
        ("Sin", "moved", "sine"),
        ("Mul", "sine size", "command"),
    ]
    constants = {
        "first": [[1, 0, 0], [0, 1, 0]],
        "bias": [0, 0, third],
        "second": [[0.8, 0.8, 0], [0, 0, 1], [0, 0, 0]],
        "shift": [0.75 * np.pi, 0.25 * np.pi, 0],
        "little": 0.01,
        "size": [0.6, 0.6, 0.5],
    }
    return make_graph(nodes, constants)


def save_bundle(folder, graph, task, obs, action, latent_dim, horizon=1, control_period_s=1.0):
    """Saves a bundle around a graph and returns its folder.

    Args:
        folder: Where.
        graph: ONNX bytes.
        task: Name of its task.
        obs: Fields of the observation.
        action: Fields of the action.
        latent_dim: Numbers of noise in one decision.
        horizon: Commands of one answer; all are executed.
        control_period_s: Time between commands [s].
    """
    rng = np.random.default_rng(5)
    golden = {
        "obs": rng.uniform(-1, 1, (8, obs[-1].stop)).astype(np.float32),
        "noise": rng.standard_normal((8, latent_dim)).astype(np.float32),
    }
    golden["action"] = OnnxPolicy(graph, "cpu").act(**golden)
    made = save(
        folder,
        Manifest(
            name="hand-made",
            task=task,
            source_commit="none",
            config_hash="0" * 64,
            obs=obs,
            action=action,
            horizon=horizon,
            n_action_steps=horizon,
            control_period_s=control_period_s,
            latent_dim=latent_dim,
            parity={"max_abs_error": 0.0},
        ),
        onnx_bytes=graph,
        golden=golden,
    )
    return made.path


def modes_bundle(folder, graph, task="modes"):
    """Saves a bundle with the fields of task `modes` around a graph and returns its folder."""
    obs = (Field("context", 0, 2, "1", (-1.0,) * 2, (1.0,) * 2),)
    action = (Field("choice", 0, 3, "1", (-1.0,) * 3, (1.0,) * 3),)
    return save_bundle(folder, graph, task, obs, action, latent_dim=3)


def chunk_bundle(folder, spec, chunk):
    """Saves a bundle that always answers `chunk` (horizon,) in every joint of a task; returns its
    folder.
    """
    n = len(chunk) * spec.act_dim
    constants = {"zero": np.zeros((spec.obs_dim, n)), "chunk": np.repeat(chunk, spec.act_dim)}
    nodes = [("Gemm", "obs zero chunk", "command")]
    graph = make_graph(nodes, constants, (spec.obs_dim, 1, spec.act_dim), len(chunk))
    return save_bundle(
        folder,
        graph,
        spec.name,
        spec.obs,
        spec.action,
        latent_dim=1,
        horizon=len(chunk),
        control_period_s=spec.control_period_s,
    )
