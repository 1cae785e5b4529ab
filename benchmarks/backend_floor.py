"""Times a one-step student on one CPU core against its floor, and looks for leaks.

    OMP_NUM_THREADS=1 python benchmarks/backend_floor.py [BUNDLE] [--million] [--json FILE]

Compared in one run, in turns: the bare matrix products of the student's shapes in NumPy and in ONNX
Runtime, a graph that does nothing, and the student as a served policy calls it. Without BUNDLE an
untrained student of the default sizes on the arm is timed. Of a bundle whose products do not follow
one another, like a teacher's, only loading and self-test are timed. Let nothing else run.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import tyro
from onnx import TensorProto, helper, numpy_helper

from edp_robot.deploy.export import N_GOLDEN, compared, to_onnx
from edp_robot.deploy.policies import Deployed
from edp_robot.deploy.students import PairedStudent
from edp_robot.methods.models import normaliser
from edp_robot.studies.distillation_measures import interleaved, products_call
from edp_robot.training.distillers import DistillConfig
from policy_server.bench.host import host
from policy_server.bench.statistics import summary
from policy_server.contract.bundle import Bundle, save
from policy_server.contract.disk.files import write_json
from policy_server.contract.manifest import Manifest
from policy_server.runtime.base import CheckedBackend, load_backend
from policy_server.runtime.onnxruntime.bound import BoundGraph
from policy_server.runtime.onnxruntime.providers import import_runtime, open_session
from sim.core.registry import task_spec

HORIZON = 10


def untrained(folder: Path) -> Bundle:
    """Returns a bundle of an untrained student of the default sizes on the arm."""
    spec = task_spec("arm-press")
    config = DistillConfig()
    torch.manual_seed(0)
    sizes = (spec.obs_dim, spec.act_dim, config.width, config.n_layers, config.activation)
    student = PairedStudent(normaliser(spec), *sizes).eval()
    low, high = spec.obs_limits()
    drawn = np.random.default_rng(0).uniform(low, high, (256, spec.obs_dim))
    states = torch.from_numpy(drawn.astype(np.float32))
    deployed = Deployed(student, spec.action_map, HORIZON).eval()
    manifest = Manifest(
        name="untrained",
        task=spec.name,
        source_commit="",
        config_hash="",
        obs=spec.obs,
        action=spec.action,
        horizon=HORIZON,
        n_action_steps=HORIZON,
        control_period_s=spec.control_period_s,
        latent_dim=spec.act_dim,
        sampler={"method": "student", "batch_sizes": [1, 8]},
    )
    golden = compared(deployed, states, N_GOLDEN, seed=1)
    graph = to_onnx(student, spec, HORIZON)
    return save(folder / "untrained", manifest, onnx_bytes=graph, golden=golden)


def products(graph: bytes) -> list[np.ndarray]:
    """Returns the matrices (n_in, n_out) of a graph's products, in order."""
    model = onnx.load_from_string(graph)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in held:
            held[node.output[0]] = held[node.input[0]].T
    found = []
    for node in model.graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in held:
            weight = held[node.input[1]]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            found.append(np.ascontiguousarray(weight.T if transposed else weight))
    return found


def bare(weights: list[np.ndarray]) -> bytes:
    """Returns a graph of these products one after the other; without weights, the identity."""
    nodes = [
        helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(len(weights))
    ]
    nodes = nodes or [helper.make_node("Identity", ["x0"], ["x1"])]
    nodes[0].input[0] = "obs"
    nodes[-1].output[0] = "action"
    n_in, n_out = _ends(weights)
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("obs", n_in), ("action", n_out))
    ]
    held = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "bare", ports[:1], ports[1:], held)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def _ends(weights: list[np.ndarray]) -> tuple[int, int]:
    """Returns the lengths of the first input and of the last output."""
    return (weights[0].shape[0], weights[-1].shape[1]) if weights else (28, 28)


def bare_call(weights: list[np.ndarray]) -> Callable[[], None]:
    """Returns a call of `bare`, batch 1, through the same buffers as a policy's."""
    runtime = import_runtime()
    session = open_session(runtime, bare(weights), "cpu", 1, ("batch", 1))
    n_in, n_out = _ends(weights)
    return BoundGraph(runtime, session, {"obs": (1, n_in), "action": (1, n_out)}, "cpu").run


def contenders(
    bundle: Bundle, backend: CheckedBackend, weights: list[np.ndarray]
) -> dict[str, Callable[[], Any]]:
    """Returns what is timed, by name."""
    golden = backend.golden
    obs = golden["obs"][:1].copy()
    noise = golden["noise"][:1].copy()
    plain = open_session(import_runtime(), bundle.read("policy.onnx"), "cpu", 1)
    return {
        "numpy products": products_call(weights),
        "onnx identity": bare_call([]),
        "onnx products": bare_call(weights),
        "session.run": lambda: plain.run(("action",), {"obs": obs, "noise": noise}),
        "act": lambda: backend.act(obs, noise),
        "buffers.run": filled_buffers(backend).run,
    }


def filled_buffers(backend: CheckedBackend) -> Any:
    """Returns the backend's buffers for one row, with a golden obs and noise in them."""
    buffers = backend.buffers(1)
    buffers.obs[...] = backend.golden["obs"][:1]
    buffers.noise[...] = backend.golden["noise"][:1]
    return buffers


def leaks(backend: CheckedBackend, n: int = 1_000_000) -> dict[str, float]:
    """Returns the time [s] of n calls, and what they add to the memory of process and Python."""
    run = filled_buffers(backend).run
    for _ in range(10_000):
        run()
    before = resident_kib()
    began = time.perf_counter()
    for _ in range(n):
        run()
    wall_s = time.perf_counter() - began
    grown = resident_kib() - before
    tracemalloc.start()
    run()
    start = tracemalloc.get_traced_memory()[0]
    for _ in range(n // 10):
        run()
    traced = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    memory = {"resident_growth_kib": grown, "traced_growth_bytes_per_tenth": traced}
    return {"calls": n, "wall_s": wall_s, **memory}


def resident_kib() -> int:
    """Returns this process's resident memory [KiB] (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def loaded(bundle: Bundle) -> tuple[CheckedBackend, dict[str, float]]:
    """Returns the backend of a bundle, and the times of loading and self-test [ms]."""
    began = time.perf_counter()
    backend = load_backend(bundle, "cpu")
    opened = time.perf_counter()
    backend.self_test()
    checked = time.perf_counter()
    return backend, {"load_ms": (opened - began) * 1e3, "golden_ms": (checked - opened) * 1e3}


def report(
    bundle: Bundle, backend: CheckedBackend, weights: list[np.ndarray], n: int
) -> dict[str, Any]:
    """Prints and returns the times, and the floor in arithmetic and memory."""
    numbers = sum(w.size for w in weights)
    size = {"kflop": 2 * numbers / 1e3, "weights_kb": 4 * numbers / 1e3}
    print(
        f"{len(weights)} products, {size['kflop']:.0f} kFLOP, "
        f"{size['weights_kb']:.0f} kB of weights a call"
    )
    samples = interleaved(contenders(bundle, backend, weights), n)
    found = {name: summary(times) for name, times in samples.items()}
    columns = "".join(f"{name:>8}" for name in ("p50", "p99", "p99.9", "n"))
    print(f"{'[us], batch 1, one thread':<26}{columns}  of onnx products")
    for name, row in found.items():
        times = f"{row['p50']:8.1f}{row['p99']:8.1f}{row['p999']:8.1f}{row['n']:8}"
        print(f"{name:<26}{times}{row['p50'] / found['onnx products']['p50']:8.2f}")
    return {"latency_us": found, **size}


def main(
    bundle: tyro.conf.Positional[Path | None] = None,
    n: int = 20_000,
    million: bool = False,
    json: Path | None = None,
) -> None:
    """Time a policy against its floor.

    Args:
        bundle: Bundle of a student. Default: an untrained one.
        n: Calls of each contender.
        million: Look for leaks over a million calls.
        json: File to write the result to.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        held = Bundle.load(bundle) if bundle else untrained(Path(folder))
        backend, result = loaded(held)
        n_golden = len(backend.golden["obs"])
        load, check = result.values()
        print(f"load {load:.1f} ms, {n_golden} golden vectors {check:.2f} ms")
        weights = products(held.read("policy.onnx"))
        result = {**result, "host": host()}
        if all(a.shape[1] == b.shape[0] for a, b in pairwise(weights)):
            result |= report(held, backend, weights, n)
        if million:
            result["million"] = leaks(backend)
            print(result["million"])
    write_json(json, result)


if __name__ == "__main__":
    tyro.cli(main)
