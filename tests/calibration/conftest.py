"""A second-order robot on a clock of its own: ten seconds of it take milliseconds; and hand-made policy graphs."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from policy_server.contract.bundle import save
from policy_server.contract.field import Field
from policy_server.runtime.onnxruntime import OnnxPolicy

JOINTS = ("pan", "lift", "roll")


def _plant(command, period_s, delay_s, natural=25.0, damping=0.8, substep_s=0.00025):
    """Motion (n, k) of held commands (n, k), by small Euler steps; delay_s (k,), another way than the estimator's."""
    per_tick = round(period_s / substep_s)
    held = np.repeat(command, per_tick, axis=0)
    late = np.stack(
        [
            np.concatenate([np.full(d, u[0]), u])[: len(u)]
            for u, d in zip(held.T, np.round(delay_s / substep_s).astype(int), strict=True)
        ]
    ).T
    x, v, out = held[0].copy(), np.zeros(held.shape[1]), np.empty_like(command)
    for i, u in enumerate(late):
        if i % per_tick == 0:
            out[i // per_tick] = x
        acceleration = natural**2 * (u - x) - 2 * damping * natural * v
        x = x + substep_s * v + 0.5 * substep_s**2 * acceleration
        v = v + substep_s * acceleration
    return out


class _FakeRobot:
    """LeRobot's names; `wait_until` and `now_ns` are its clock. Readings take 4 ms and are quantised."""

    name = "fake"

    def __init__(self, delay_s=0.03, stuck=(), late_s=0.0, fail_at=None):
        self.observation_features = {f"{j}.pos": float for j in JOINTS} | {"camera": (3, 4, 5)}
        self.action_features = {f"{j}.target": float for j in JOINTS}
        self.delay_s, self.stuck, self.late_s, self.fail_at = delay_s, stuck, late_s, fail_at
        self.t_s, self.x, self.v = 0.0, np.array([0.3, -0.7, 0.0]), np.zeros(3)
        self.command, self.queue, self.log, self.sent = self.x.copy(), [], [], []

    def connect(self):
        self.log.append("connect")

    def disconnect(self):
        self.log.append("disconnect")

    def now_ns(self):
        return round(self.t_s * 1e9)

    def wait_until(self, deadline_ns, spin_ns):
        late_s = self.late_s if len(self.sent) % 10 == 5 else 0.0
        self._run(deadline_ns * 1e-9 + late_s)
        return self.now_ns()

    def get_observation(self):
        if self.fail_at is not None and len(self.sent) >= self.fail_at:
            raise ConnectionError("the bus is gone")
        self._run(self.t_s + 0.002)
        seen = np.round(self.x / 0.0015) * 0.0015
        self._run(self.t_s + 0.002)
        return {f"{j}.pos": float(s) for j, s in zip(JOINTS, seen, strict=True)}

    def send_action(self, action):
        target = np.array([action[f"{j}.target"] for j in JOINTS])
        self.sent.append(target)
        self.queue.append((self.t_s + self.delay_s, target))

    def _run(self, until_s, step_s=0.0005):
        while self.t_s < until_s - 1e-9:
            while self.queue and self.queue[0][0] <= self.t_s + 1e-9:
                self.command = self.queue.pop(0)[1]
            acceleration = 25.0**2 * (self.command - self.x) - 2 * 0.8 * 25.0 * self.v
            self.x = self.x + step_s * self.v + 0.5 * step_s**2 * acceleration
            self.v = self.v + step_s * acceleration
            for k in self.stuck:
                self.x[k], self.v[k] = -0.7, 0.0
            self.t_s += step_s


@pytest.fixture(scope="session")
def plant():
    return _plant


@pytest.fixture(scope="session")
def FakeRobot():
    return _FakeRobot


def _make_graph(nodes, constants, sizes=(2, 3, 3)):
    """ONNX bytes of nodes (op, inputs, output); sizes: obs_dim, latent_dim, act_dim; horizon 1."""
    obs_dim, latent_dim, act_dim = sizes
    shaped = ("obs", obs_dim), ("noise", latent_dim)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in shaped
    ]
    nodes = [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in nodes]
    nodes.append(helper.make_node("Unsqueeze", ["command", "axis"], ["action"]))
    held = {k: np.asarray(v, np.float32) for k, v in constants.items()} | {"axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "hand-made",
        values,
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", 1, act_dim])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def _modes_graph(third=1.0):
    """A policy that hits the first mode of task `modes` from every context, by sines; `third` is a dead channel.

    It carries no information, but is in the input of the second layer, whose int8 levels it makes coarser.
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
    return _make_graph(nodes, constants)


@pytest.fixture(scope="session")
def make_graph():
    return _make_graph


@pytest.fixture(scope="session")
def modes_graph():
    return _modes_graph


@pytest.fixture
def modes_bundle(tmp_path):
    """Saves a bundle of task `modes` (or another name) around a graph; returns its folder."""

    def make(graph, task="modes"):
        rng, limits = np.random.default_rng(5), ((-1.0,) * 3, (1.0,) * 3)
        golden = {"obs": rng.uniform(-1, 1, (8, 2)), "noise": rng.standard_normal((8, 3))}
        golden = {k: v.astype(np.float32) for k, v in golden.items()}
        golden["action"] = OnnxPolicy(graph, "cpu").act(**golden)
        about = {
            "name": "hand-made",
            "task": task,
            "source_commit": "none",
            "config_hash": "0" * 64,
        }
        sizes = {"horizon": 1, "n_action_steps": 1, "control_period_s": 1.0, "latent_dim": 3}
        fields = {"obs": (Field("context", 0, 2, "1", (-1.0,) * 2, (1.0,) * 2),)}
        fields["action"] = (Field("choice", 0, 3, "1", *limits),)
        free = {"sampler": {}, "metrics": {}, "parity": {"max_abs_error": 0.0}}
        return save(
            tmp_path / "bundle", **about, **sizes, **fields, **free, onnx_bytes=graph, golden=golden
        ).path

    return make
