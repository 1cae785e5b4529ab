"""The tiny policy, bundles of it, and servers of these in processes of their own."""

import contextlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from policy_server.contract.bundle import save
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest

OBS_DIM = 3
ACT_DIM = 2
HORIZON = 2
LATENT_DIM = HORIZON * ACT_DIM
_RNG = np.random.default_rng(5)
W = _RNG.normal(size=(OBS_DIM, LATENT_DIM)).astype(np.float32)
V = 0.1 * np.eye(LATENT_DIM, dtype=np.float32)
SERVE = (sys.executable, "-m", "edp_robot.cli", "serve")


def expected_action(obs, noise):
    """Returns what the tiny policy answers, (n, horizon, act_dim) float64."""
    return np.tanh(obs @ W + noise @ V).reshape(-1, HORIZON, ACT_DIM)


def onnx_bytes(
    weights=W,
    n_obs=OBS_DIM,
    batch="batch",
    horizon=HORIZON,
    names=("obs", "noise", "action"),
    final="Tanh",
):
    """Returns the graph of action = tanh(obs W + noise V), or another one that tests need.

    Args:
        weights: W (n_obs, latent_dim).
        n_obs: Length of the obs.
        batch: Name or size of the batch dimension.
        horizon: Actions of one answer.
        names: Names of obs, noise and action.
        final: Operator in place of Tanh. "Log" makes NaN.
    """
    obs, noise, action = names
    nodes = [
        helper.make_node("MatMul", [obs, "W"], ["a"]),
        helper.make_node("MatMul", [noise, "V"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node(final, ["c"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], [action]),
    ]
    row = [horizon, LATENT_DIM // horizon]
    constants = {"W": weights, "V": V, "shape": np.array([-1, *row], dtype=np.int64)}

    def port(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])

    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs=[port(obs, n_obs), port(noise, LATENT_DIM)],
        outputs=[port(action, *row)],
        initializer=[numpy_helper.from_array(x, name) for name, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def golden(n=5):
    """Returns `n` golden vectors of the tiny policy."""
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(n, OBS_DIM)).astype(np.float32)
    noise = rng.normal(size=(n, LATENT_DIM)).astype(np.float32)
    return {"obs": obs, "noise": noise, "action": expected_action(obs, noise).astype(np.float32)}


def fields():
    """Returns the fields of obs and action of the tiny policy."""
    inf = float("inf")
    obs = (
        Field("arm", 0, 2, "rad", low=(-inf, -1.0), high=(inf, 1.0)),
        Field("button", 2, 3, "m", low=(0.0,), high=(0.02,)),
    )
    limits = {"low": (-0.9, -0.9), "high": (0.9, 0.9), "max_rate": (5.0, inf)}
    return obs, (Field("arm_target", 0, 2, "rad", **limits),)


def save_bundle(path, extra_files=None, **changes):
    """Returns the tiny policy's bundle, written to `path`.

    Args:
        path: Folder of the bundle.
        extra_files: More files by name.
        changes: Other values of the manifest, or of onnx_bytes and golden.
    """
    obs, action = fields()
    graph = changes.pop("onnx_bytes", onnx_bytes())
    arrays = changes.pop("golden", golden())
    values = {
        "name": "tiny",
        "task": "none",
        "source_commit": "abc",
        "config_hash": "def",
        "obs": obs,
        "action": action,
        "horizon": HORIZON,
        "n_action_steps": 1,
        "control_period_s": 0.01,
        "latent_dim": LATENT_DIM,
        "sampler": {"method": "test"},
        "parity": {"max_abs_error": 0.0},
    }
    manifest = Manifest(**{**values, **changes})
    return save(path, manifest, onnx_bytes=graph, golden=arrays, extra_files=extra_files)


class FakeRobot:
    """A robot that is always where its last action sent it. Its button does not move."""

    def __init__(self):
        self.observation_features = {"a.pos": float, "b.pos": float, "button": float}
        self.action_features = {"a.pos": float, "b.pos": float}
        self.target = {"a.pos": 0.2, "b.pos": -0.1}
        self.sent = []
        self.events = []

    def connect(self):
        self.events.append("connect")

    def disconnect(self):
        self.events.append("disconnect")

    def get_observation(self):
        return {**self.target, "button": 0.01}

    def send_action(self, action):
        assert self.events[-1] != "disconnect"
        self.target = action
        self.sent.append(list(action.values()))


@pytest.fixture(scope="session")
def tiny():
    """The tiny policy: its sizes and weights, and functions that build parts of it."""
    return SimpleNamespace(
        obs_dim=OBS_DIM,
        act_dim=ACT_DIM,
        horizon=HORIZON,
        latent_dim=LATENT_DIM,
        W=W,
        expected_action=expected_action,
        onnx_bytes=onnx_bytes,
        golden=golden,
        fields=fields,
        save=save_bundle,
        Robot=FakeRobot,
    )


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory):
    """The folder of a bundle of the tiny policy. Tests do not change it."""
    return save_bundle(tmp_path_factory.mktemp("shared") / "bundle").path


def read_line(process, timeout_s=60):
    """Returns the next line of stdout, or None if none comes in time."""
    lines = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)
    reader.start()
    reader.join(timeout_s)
    return lines[0] if lines else None


@contextlib.contextmanager
def running_server(bundle_path, endpoint="tcp://127.0.0.1:*", seed=0, options=()):
    """Yields a real server process with its first line and its endpoint, when it is ready.

    Args:
        bundle_path: Folder of the bundle.
        endpoint: Where it listens.
        seed: Seed of its noise.
        options: More options of `edp serve`.
    """
    where = ("--bind", endpoint, "--provider", "cpu", "--seed", str(seed))
    command = [*SERVE, str(bundle_path), *where, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = read_line(process)
        if not (line and line.startswith("serving ")):
            process.kill()
            pytest.fail(f"the server said {line!r} and {process.stderr.read()!r}")
        ready = line.split(" on ")[1].split(",")[0]
        yield SimpleNamespace(process=process, line=line, endpoint=ready)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def start_server():
    """Starts servers that are gone when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(running_server(*args, **kwargs))


@pytest.fixture(scope="module")
def served(bundle_path):
    """One server for all tests of a file."""
    with running_server(bundle_path) as server:
        yield server
