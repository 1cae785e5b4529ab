"""A policy with memory by hand: it answers the first observation of the episode and their sum."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from policy_server.contract.bundle import save
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest

OBS_DIM = 1
STATE_DIM = 3  # whether there is a first observation, the first, the sum
ACTIONS = ("first", "sum")
INF = float("inf")
N_GOLDEN = 6  # of each of two episodes


def answers(observations):
    """Returns what the policy answers to the observations (n,) of an episode, (n, 1, 2)."""
    seen = np.asarray(observations, np.float32)
    return np.stack([np.full_like(seen, seen[0]), np.cumsum(seen)], axis=1)[:, None]


def graph(factor=1.0, extra=0, batch="batch"):
    """Returns the policy's graph.

    Args:
        factor: What the observation is multiplied by.
        batch: Name or size of the batch dimension.
        extra: Numbers of state that it does not need.
    """
    dims = STATE_DIM + extra
    columns = {"c0": [0], "c1": [1], "c2": [2], "rest": list(range(STATE_DIM, dims))}
    nodes = [
        helper.make_node("Mul", ["obs", "factor"], ["x"]),
        *(helper.make_node("Gather", ["state", c], [f"s_{c}"], axis=1) for c in columns),
        helper.make_node("Sub", ["one", "s_c0"], ["new"]),
        helper.make_node("Mul", ["new", "x"], ["fresh"]),
        helper.make_node("Add", ["s_c1", "fresh"], ["first"]),
        helper.make_node("Add", ["s_c2", "x"], ["sum"]),
        helper.make_node("Add", ["s_c0", "new"], ["flag"]),
        helper.make_node("Concat", ["flag", "first", "sum", "s_rest"], ["next_state"], axis=1),
        helper.make_node("Concat", ["first", "sum"], ["row"], axis=1),
        helper.make_node("Reshape", ["row", "shape"], ["action"]),
    ]
    tensors: dict[str, np.ndarray] = {name: np.array(c, np.int64) for name, c in columns.items()}
    tensors |= {"one": np.ones(1, np.float32), "factor": np.full(1, factor, np.float32)}
    tensors["shape"] = np.array([-1, 1, 2], np.int64)

    def port(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])

    made = helper.make_graph(
        nodes,
        "remembering",
        [port("obs", OBS_DIM), port("state", dims)],
        [port("action", 1, 2), port("next_state", dims)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(made, opset_imports=[opset], ir_version=9).SerializeToString()


def golden(factor=1.0, extra=0):
    """Returns two golden episodes of the policy."""
    rng = np.random.default_rng(2)
    rows = {name: [] for name in ("obs", "noise", "action", "state", "next_state")}
    for _ in range(2):
        obs = rng.uniform(0.5, 2, N_GOLDEN).astype(np.float32)
        action = answers(np.float32(factor) * obs)
        after = np.zeros((N_GOLDEN, STATE_DIM + extra), np.float32)
        after[:, 0] = 1
        after[:, 1:STATE_DIM] = action[:, 0]
        before = np.vstack([np.zeros_like(after[:1]), after[:-1]])
        empty = np.zeros((N_GOLDEN, 0), np.float32)
        parts = {"obs": obs[:, None], "noise": empty, "action": action}
        for name, value in {**parts, "state": before, "next_state": after}.items():
            rows[name].append(value)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def save_bundle(path, factor=1.0, extra=0, **changes):
    """Returns the policy's bundle, written to `path`.

    Args:
        path: Folder of the bundle.
        factor: What the observation is multiplied by.
        extra: Numbers of state that it does not need.
        changes: Other values of the manifest, `golden`, and `graph_extra` for another graph.
    """
    values = {
        "name": f"remembering-{factor:g}",
        "task": "none",
        "source_commit": "abc",
        "config_hash": "def",
        "obs": (Field("x", 0, OBS_DIM, "1", (-INF,), (INF,)),),
        "action": tuple(Field(n, i, i + 1, "1", (-INF,), (INF,)) for i, n in enumerate(ACTIONS)),
        "horizon": 1,
        "n_action_steps": 1,
        "control_period_s": 0.02,
        "latent_dim": 0,
        "sampler": {"batch_sizes": [1, 4]},
        "state_dim": STATE_DIM + extra,
    }
    made = changes.pop("golden", golden(factor, extra))
    onnx_bytes = graph(factor, changes.pop("graph_extra", extra))
    manifest = Manifest(**{**values, **changes})
    return save(path, manifest, onnx_bytes=onnx_bytes, golden=made)


def counting_graph(obs_dim, act_dim):
    """Returns a policy that commands 0.01 k in every joint at decision k of an episode."""
    nodes = [
        helper.make_node("Add", ["state", "one"], ["next_state"]),
        helper.make_node("Mul", ["next_state", "scale"], ["row"]),
        helper.make_node("Gather", ["obs", "first"], ["obs_0"], axis=1),
        helper.make_node("Mul", ["obs_0", "zero"], ["nothing"]),
        helper.make_node("Add", ["row", "nothing"], ["command"]),
        helper.make_node("Reshape", ["command", "shape"], ["action"]),
    ]
    tensors = {
        "one": np.ones(1, np.float32),
        "scale": np.full((1, act_dim), 0.01, np.float32),
        "zero": np.zeros(1, np.float32),
        "first": np.array([0]),
        "shape": np.array([-1, 1, act_dim]),
    }
    shapes = {"obs": [obs_dim], "state": [1], "action": [1, act_dim], "next_state": [1]}
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in shapes.items()
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    made = helper.make_graph(nodes, "counting", ports[:2], ports[2:], weights)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(made, opset_imports=[opset], ir_version=9).SerializeToString()


def counting_bundle(folder, spec):
    """Saves a bundle of `counting_graph` and returns its folder.

    Args:
        folder: Where.
        spec: The task.
    """
    manifest = Manifest(
        name="counting",
        task=spec.name,
        source_commit="abc",
        config_hash="def",
        obs=spec.obs,
        action=spec.action,
        horizon=1,
        n_action_steps=1,
        control_period_s=spec.control_period_s,
        latent_dim=0,
        state_dim=1,
    )
    count = np.arange(4, dtype=np.float32)[:, None]
    golden = {
        "obs": np.zeros((4, spec.obs_dim)),
        "noise": np.zeros((4, 0)),
        "action": np.repeat(0.01 * (count + 1), spec.act_dim, axis=1)[:, None],
        "state": count,
        "next_state": count + 1,
    }
    graph_bytes = counting_graph(spec.obs_dim, spec.act_dim)
    return save(folder, manifest, onnx_bytes=graph_bytes, golden=golden).path
