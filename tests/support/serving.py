import contextlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.raw_zmtp import Server, listening

from policy_server.contract.bundle import save
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest
from policy_server.transport.plain_client import PlainLink
from policy_server.transport.plain_server import PlainFront

OBS_DIM, ACT_DIM, HORIZON = 3, 2, 2
LATENT_DIM = HORIZON * ACT_DIM
_RNG = np.random.default_rng(5)
W = _RNG.normal(size=(OBS_DIM, LATENT_DIM)).astype(np.float32)
V = 0.1 * np.eye(LATENT_DIM, dtype=np.float32)
SERVE = (sys.executable, "-m", "edp_robot.cli", "serve")


def expected_action(obs, noise):
    return np.tanh(obs @ W + noise @ V).reshape(-1, HORIZON, ACT_DIM)


def onnx_bytes(
    weights=W,
    n_obs=OBS_DIM,
    batch="batch",
    horizon=HORIZON,
    names=("obs", "noise", "action"),
    final="Tanh",
):
    """The graph of action = tanh(obs W + noise V); final="Log" makes NaN of it."""
    obs, noise, action = names
    nodes = [
        helper.make_node("MatMul", [obs, "W"], ["a"]),
        helper.make_node("MatMul", [noise, "V"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node(final, ["c"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], [action]),
    ]
    shape = np.array([-1, horizon, LATENT_DIM // horizon], dtype=np.int64)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(obs, TensorProto.FLOAT, [batch, n_obs]),
            helper.make_tensor_value_info(noise, TensorProto.FLOAT, [batch, LATENT_DIM]),
        ],
        [
            helper.make_tensor_value_info(
                action, TensorProto.FLOAT, [batch, horizon, LATENT_DIM // horizon]
            )
        ],
        [numpy_helper.from_array(x, n) for x, n in ((weights, "W"), (V, "V"), (shape, "shape"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def golden(n=5):
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(n, OBS_DIM)).astype(np.float32)
    noise = rng.normal(size=(n, LATENT_DIM)).astype(np.float32)
    return {"obs": obs, "noise": noise, "action": expected_action(obs, noise).astype(np.float32)}


def fields():
    inf = float("inf")
    obs = (
        Field("arm", 0, 2, "rad", (-inf, -1.0), (inf, 1.0)),
        Field("button", 2, 3, "m", (0.0,), (0.02,)),
    )
    action = (Field("arm_target", 0, 2, "rad", (-0.9, -0.9), (0.9, 0.9), (5.0, inf)),)
    return obs, action


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
    """A robot at whatever it was last told; the button obs is constant."""

    def __init__(self):
        self.observation_features = {"a.pos": float, "b.pos": float, "button": float}
        self.action_features = {"a.pos": float, "b.pos": float}
        self.target = {"a.pos": 0.2, "b.pos": -0.1}
        self.sent, self.events = [], []

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
    """The tiny policy: sizes, weights, and functions that build it."""
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
    return save_bundle(tmp_path_factory.mktemp("shared") / "bundle").path


def read_line(process, timeout_s=60):
    """The next line of stdout, or None where it does not come."""
    lines = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)
    reader.start()
    reader.join(timeout_s)
    return lines[0] if lines else None


@contextlib.contextmanager
def running_server(bundle_path, endpoint="tcp://127.0.0.1:*", seed=0, options=()):
    """A real server process; yields it with its endpoint once it says that it serves."""
    where = ("--bind", endpoint, "--provider", "cpu", "--seed", str(seed))
    command = [*SERVE, str(bundle_path), *where, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = read_line(process)
        assert line and line.startswith("serving "), (
            line,
            process.poll() is not None and process.stderr.read(),
        )
        yield SimpleNamespace(
            process=process, line=line, endpoint=line.split(" on ")[1].split(",")[0]
        )
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


@pytest.fixture(params=["tcp", "ipc"])
def front(request, tmp_path):
    endpoint = f"ipc://{tmp_path}/front" if request.param == "ipc" else "tcp://127.0.0.1:*"
    with contextlib.closing(PlainFront(endpoint)) as front:
        yield front


@pytest.fixture
def ipc(tmp_path):
    """A front on a Unix socket."""
    with contextlib.closing(PlainFront(f"ipc://{tmp_path}/f")) as front:
        yield front


@pytest.fixture(params=["tcp", "ipc"])
def wanted(request, tmp_path):
    """Where a raw server is to listen."""
    return f"ipc://{tmp_path}/s" if request.param == "ipc" else "tcp://127.0.0.1:0"


@pytest.fixture
def start(wanted):
    """Starts a raw server with these scripts and returns it with a link to it."""
    with contextlib.ExitStack() as stack:

        def make(*scripts):
            listener, endpoint = stack.enter_context(listening(wanted))
            link = stack.enter_context(contextlib.closing(PlainLink(endpoint, b"me")))
            return Server(listener, scripts), link

        yield make
