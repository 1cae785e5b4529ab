"""How near a served one-step student is to its floor on one CPU core, and whether a million calls leave a trace.

    python benchmarks/backend_floor.py [BUNDLE] [--n 20000] [--million] [--json FILE]

Side by side in one run, rounds interleaved: the bare matrix products of the student's shapes in NumPy and in ONNX
Runtime, a graph that does nothing, and the student through `CheckedBackend.act`. Without BUNDLE, an untrained student of the
default sizes on the arm. A teacher's products do not follow one another: of its bundle, load and self-test are timed
alone. Set OMP_NUM_THREADS=1, and let nothing else run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from edp_robot.deploy.export import N_GOLDEN, to_onnx
from edp_robot.deploy.students import PairedStudent
from edp_robot.methods.models import normaliser
from edp_robot.studies.distillation_measures import interleaved, products_call
from edp_robot.training.distillers import DistillConfig
from policy_server.bench.latency import host
from policy_server.bench.statistics import summary
from policy_server.contract.bundle import Bundle, save
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest
from policy_server.runtime.base import CheckedBackend, load_backend
from policy_server.runtime.onnxruntime.bound import BoundGraph
from policy_server.runtime.onnxruntime.providers import import_runtime, open_session
from sim.core.registry import task_spec


def untrained(folder: Path) -> Bundle:
    """Returns a bundle of an untrained student of the default sizes on the arm."""
    spec, config = task_spec("arm-press"), DistillConfig()
    torch.manual_seed(0)
    sizes = (spec.obs_dim, spec.act_dim, config.width, config.n_layers, config.activation)
    graph = to_onnx(PairedStudent(normaliser(spec), *sizes).eval(), spec, 10)
    low, high = spec.obs_limits()
    rng = np.random.default_rng(0)
    obs = rng.uniform(low, high, (N_GOLDEN, spec.obs_dim)).astype(np.float32)
    noise = rng.standard_normal((N_GOLDEN, spec.act_dim), np.float32)
    action = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(
        None, {"obs": obs, "noise": noise}
    )
    fields = [
        tuple(Field(f.name, f.start, f.stop, f.unit, f.low, f.high, f.max_rate) for f in part)
        for part in (spec.obs, spec.action)
    ]
    manifest = Manifest(
        name="untrained",
        task=spec.name,
        source_commit="",
        config_hash="",
        obs=fields[0],
        action=fields[1],
        horizon=10,
        n_action_steps=10,
        control_period_s=0.01,
        latent_dim=spec.act_dim,
        sampler={"method": "student", "batch_sizes": [1, 8]},
    )
    golden = {"obs": obs, "noise": noise, "action": action[0]}
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
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            found.append(
                np.ascontiguousarray(held[node.input[1]].T if turned else held[node.input[1]])
            )
    return found


def bare(weights: list[np.ndarray]) -> bytes:
    """Returns a graph of these products one after the other, and of nothing else; of none, the identity."""
    nodes = [
        helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(len(weights))
    ]
    n_in, n_out = (weights[0].shape[0], weights[-1].shape[1]) if weights else (28, 28)
    nodes = nodes or [helper.make_node("Identity", ["x0"], ["x1"])]
    nodes[0].input[0], nodes[-1].output[0] = "obs", "action"
    ports = [
        helper.make_tensor_value_info(k, TensorProto.FLOAT, ["batch", d])
        for k, d in (("obs", n_in), ("action", n_out))
    ]
    held = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "bare", ports[:1], ports[1:], held)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    ).SerializeToString()


def bound_call(graph: bytes, n_in: int, n_out: int) -> Any:
    """Returns the graph, batch 1, through the same buffers as a policy's."""
    runtime = import_runtime()
    session = open_session(runtime, graph, "cpu", 1, ("batch", 1))
    return BoundGraph(runtime, session, {"obs": (1, n_in), "action": (1, n_out)}, "cpu").run


def contenders(
    bundle: Bundle, backend: CheckedBackend, weights: list[np.ndarray]
) -> dict[str, Any]:
    """Returns what is timed, by name."""
    graph, golden = bundle.read("policy.onnx"), backend.golden
    obs, noise = golden["obs"][:1].copy(), golden["noise"][:1].copy()
    buffers = backend.buffers(1)
    buffers.obs[...] = obs
    buffers.noise[...] = noise
    runtime = import_runtime()
    plain = open_session(runtime, graph, "cpu", 1)
    return {
        "numpy products": products_call(weights),
        "onnx identity": bound_call(bare([]), 28, 28),
        "onnx products": bound_call(bare(weights), weights[0].shape[0], weights[-1].shape[1]),
        "session.run": lambda: plain.run(("action",), {"obs": obs, "noise": noise}),
        "act": lambda: backend.act(obs, noise),
        "buffers.run": buffers.run,
    }


def million(backend: CheckedBackend, n: int = 1_000_000) -> dict[str, float]:
    """Returns the growth of resident memory [KiB] and of Python's allocations [B] over n calls, and their time [s]."""
    buffers = backend.buffers(1)
    buffers.obs[...] = backend.golden["obs"][:1]
    buffers.noise[...] = backend.golden["noise"][:1]
    for _ in range(10_000):
        buffers.run()
    before, began = resident_kib(), time.perf_counter()
    for _ in range(n):
        buffers.run()
    took, grown = time.perf_counter() - began, resident_kib() - before
    tracemalloc.start()
    buffers.run()
    start = tracemalloc.get_traced_memory()[0]
    for _ in range(n // 10):
        buffers.run()
    traced = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    return {
        "calls": n,
        "wall_s": took,
        "resident_growth_kib": grown,
        "traced_growth_bytes_per_tenth": traced,
    }


def resident_kib() -> int:
    """Returns this process's resident memory [KiB] (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.load(args.bundle) if args.bundle else untrained(Path(folder))
        began = time.perf_counter()
        backend = load_backend(bundle, "cpu")
        loaded = time.perf_counter()
        backend.self_test()
        checked = time.perf_counter()
        result: dict[str, Any] = {
            "load_ms": (loaded - began) * 1e3,
            "golden_ms": (checked - loaded) * 1e3,
        }
        print(
            f"load {result['load_ms']:.1f} ms, {len(backend.golden['obs'])} golden vectors {result['golden_ms']:.2f} ms"
        )
        weights = products(bundle.read("policy.onnx"))
        if all(a.shape[1] == b.shape[0] for a, b in pairwise(weights)):
            result |= report(bundle, backend, weights, args.n)
        if args.million:
            result["million"] = million(backend)
            print(result["million"])
    if args.json:
        args.json.write_text(json.dumps({**result, "host": host()}, indent=1) + "\n")


def report(
    bundle: Bundle, backend: CheckedBackend, weights: list[np.ndarray], n: int
) -> dict[str, Any]:
    """Prints and returns the times, and the floor in arithmetic and memory."""
    numbers = sum(w.size for w in weights)
    print(
        f"{len(weights)} products, {2 * numbers / 1e3:.0f} kFLOP, {4 * numbers / 1e3:.0f} kB of weights a call"
    )
    found = {
        name: summary(times)
        for name, times in interleaved(contenders(bundle, backend, weights), n).items()
    }
    floor = found["onnx products"]["p50"]
    print(
        f"{'[us], batch 1, one thread':<26}{'p50':>8}{'p99':>8}{'p99.9':>8}{'n':>8}  of onnx products"
    )
    for name, row in found.items():
        print(
            f"{name:<26}{row['p50']:8.1f}{row['p99']:8.1f}{row['p999']:8.1f}{row['n']:8}{row['p50'] / floor:8.2f}"
        )
    return {"latency_us": found, "kflop": 2 * numbers / 1e3, "weights_kb": 4 * numbers / 1e3}


if __name__ == "__main__":
    main()
