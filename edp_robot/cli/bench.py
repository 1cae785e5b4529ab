"""`edp bench sampler | latency | load | compare`."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from edp_robot.cli.arguments import FROM, at_least_one
from edp_robot.cli.writing import write_each
from policy_server.contract.choices import Precision, Provider
from policy_server.contract.disk.files import replacing, write_json
from policy_server.contract.disk.outputs import OutFile
from policy_server.contract.errors import printable


def sampler(
    start: Annotated[Path | None, FROM] = None,
    student: Path | None = None,
    teacher_bundle: Path | None = None,
    student_bundle: Path | None = None,
    n: int = 2_000,
    json: OutFile | None = None,
) -> int:
    """Time teacher and student, in torch and in ONNX Runtime, and the matrix products alone.

    Example: edp bench sampler --from runs/demo/finetuned --student runs/demo/student --json
    sampler.json

    Args:
        start: Run folder with the teacher. Without it, untrained networks of the paper's sizes are
            timed.
        student: Run folder of the teacher's distillation.
        teacher_bundle: Bundle that `edp export` made of the teacher. Without it, the graph to time
            is exported anew, which takes seconds.
        student_bundle: Bundle that it made of the student.
        n: Calls of each sampler, batch 1, one thread, in turns.
        json: File to write the result to.
    """
    import torch

    from edp_robot.studies.distillation_measures import interleaved
    from policy_server.bench.host import host
    from policy_server.bench.statistics import summary

    at_least_one("--n", n)
    torch.set_num_threads(1)
    bundles = (teacher_bundle, student_bundle)
    samples = interleaved(_samplers(start, student, bundles), n)
    result: dict[str, Any] = {name: summary(times) for name, times in samples.items()}
    print(f"{'[us], batch 1, one thread':<28}{'p50':>10}{'p99':>10}{'n':>8}")
    for name, row in result.items():
        print(f"{name:<28}{row['p50']:>10.1f}{row['p99']:>10.1f}{row['n']:>8}")
    raw = {name: times.tolist() for name, times in samples.items()}
    write_json(json, {"latency_us": result, "samples_us": raw, "host": host()})
    return 0


def _samplers(
    start: Path | None, student: Path | None, bundles: tuple[Path | None, Path | None]
) -> dict[str, Any]:
    """Returns functions without arguments to time, by name.

    Args:
        start: Run folder with the teacher.
        student: Run folder of its distillation.
        bundles: Those of teacher and student, as far as they exist.
    """
    from edp_robot.deploy.export import to_onnx
    from edp_robot.studies.distillation_measures import onnx_call, products_call, torch_call
    from policy_server.runtime.onnxruntime import OnnxPolicy

    teacher_policy, student_policy, spec, horizon = _policies(start, student)
    weights = [w.detach().numpy() for w in student_policy.net.parameters() if w.dim() == 2]

    def exported(policy, bundle: Path | None):
        graph = to_onnx(policy, spec, horizon) if bundle is None else _graph_of(bundle, spec)
        return onnx_call(OnnxPolicy(graph).act, policy, spec)

    return {
        "torch_teacher": torch_call(teacher_policy, spec, horizon),
        "onnx_teacher": exported(teacher_policy, bundles[0]),
        "onnx_student": exported(student_policy, bundles[1]),
        "numpy_matmul_floor": products_call(weights),  # no runtime can be faster than these
    }


def _graph_of(bundle: Path, spec) -> bytes:
    """Returns a bundle's graph. Raises ValueError if it is of another task than `spec`."""
    from policy_server.contract.bundle import ONNX, Bundle

    held = Bundle.load(bundle)
    if held.manifest.task != spec.name:
        raise ValueError(
            f"bundle {bundle} is of the task {held.manifest.task!r}, the runs are of "
            f"{spec.name!r}; give a bundle that `edp export` made of these runs"
        )
    return held.contents[ONNX]


def _policies(start: Path | None, student: Path | None):
    """Returns (teacher, student, spec, horizon), untrained on the arm where no run is given."""
    from edp_robot.deploy.export import load_policy
    from edp_robot.deploy.policies import DiffusionPolicy
    from edp_robot.deploy.students import PairedStudent
    from edp_robot.methods.models import NoiseModelConfig, noise_model, normaliser
    from sim.core.registry import task_spec

    if start is not None and student is not None:
        teacher = load_policy(start)
        source = teacher.source
        return teacher.policy, load_policy(student).policy, source.spec, source.n_action_steps
    if start is not None or student is not None:
        raise ValueError(
            "only one of --from and --student given; give both, or neither for untrained networks "
            "of the paper's sizes"
        )
    spec = task_spec("arm-press")
    norm = normaliser(spec)
    model = noise_model(spec.act_dim, spec.obs_dim, NoiseModelConfig())
    teacher_policy = DiffusionPolicy(norm, model, spec.act_dim).eval()
    student_policy = PairedStudent(norm, spec.obs_dim, spec.act_dim).eval()
    return teacher_policy, student_policy, spec, 10


def latency(
    bundle: Positional[Path],
    provider: Provider = "auto",
    n: int = 5000,
    precision: Precision = "fp32",
    backend: str = "onnxruntime",
    json: OutFile | None = None,
) -> int:
    """Measure a policy's latency in this process, one observation at a time.

    Example: edp bench latency runs/demo/bundle --provider cpu --json latency.json

    Args:
        bundle: Folder of the policy bundle.
        provider: Device that computes. auto takes the faster of CPU and CUDA.
        n: Queries to time, after 100 to warm up.
        precision: Version of the policy: fp32, or what `edp calibrate quant` added to the bundle.
        backend: Runtime that computes; `edp plugins` lists them. Your own: package.module:Class.
        json: File to write the result to.
    """
    from policy_server.bench.host import host
    from policy_server.bench.latency import bench_backend, bench_memory
    from policy_server.bench.statistics import summary
    from policy_server.runtime.base import load_backend

    at_least_one("--n", n)
    here = host()
    policy = load_backend(bundle, provider, precision=precision, backend=backend)
    result = {"self_test_error": policy.self_test(), "provider": policy.provider}
    golden = policy.golden
    if policy.manifest.state_dim:
        samples_us = bench_memory(policy, golden, n)
    else:
        samples_us = bench_backend(policy, golden["obs"][:1], golden["noise"][:1], n)
    result["inference_us"] = summary(samples_us)
    name = policy.manifest.name
    print(f"{printable(name)}, provider {policy.provider}, {n} queries in this process")
    _show(result)
    _write(json, {**result, "policy": name, "host": here})
    return 0


@dataclass(frozen=True)
class LoadOptions:
    """What `edp bench load` measures.

    Attributes:
        server: Endpoint of the server, tcp://HOST:PORT or ipc://PATH.
        bundle: Folder of a bundle to run in the clients' own processes instead.
        clients: Number of clients, 1 to 64. Several numbers with commas are measured one after the
            other.
        rate: Requests of each client [Hz]. Latency then counts from the scheduled send. Without a
            rate, each client sends its next request when it has the answer to the last.
        n: Requests to measure, all clients together.
        seconds: Time to measure instead of n requests [s].
        deadline_s: Counts the answers that come later than this [s]. The server is told the
            deadline.
        warmup_s: Load before the measurement [s].
        timeout_s: Time after which an answer counts as lost [s].
        processes: Processes that play the clients. Default: one a core.
        provider: Device that computes a --bundle.
        json: File to write the result to.
        samples: File (.npz) to write the raw samples to.
        figure: File to draw latency over time and its tail to, for example load.png.
        keys: This client's NAME.key_secret, or the folder that holds it and server.key.
    """

    server: str = "tcp://127.0.0.1:5599"
    bundle: Path | None = None
    clients: str = "1"
    rate: float | None = None
    n: int = 20_000
    seconds: float | None = None
    deadline_s: float | None = None
    warmup_s: float = 0.5
    timeout_s: float = 1.0
    processes: int | None = None
    provider: Provider = "auto"
    json: OutFile | None = None
    samples: OutFile | None = None
    figure: OutFile | None = None
    keys: Path | None = None

    def plan(self, n_clients: int, policy: dict[str, Any]):
        """Returns the plan for `n_clients`; `policy` says what to send and what to expect."""
        from policy_server.bench.load.plan import LoadPlan

        where: dict[str, Any] = {"endpoint": self.server, "keys": self.keys and str(self.keys)}
        if self.bundle:
            where = {"bundle": str(self.bundle), "provider": self.provider}
        return LoadPlan(
            **policy,
            **where,
            n_clients=n_clients,
            rate_hz=self.rate,
            n_requests=self.n,
            duration_s=self.seconds,
            warmup_s=self.warmup_s,
            deadline_s=self.deadline_s,
            timeout_s=self.timeout_s,
        )


def load(options: Annotated[LoadOptions, arg(name="")]) -> int:
    """Measure latency under the load of one or many robots, network included.

    Ctrl-C ends the measurement early and reports what was measured until then.
    Example: edp bench load --clients 1,4,16,64 --rate 50 --deadline-s 0.02 --json load.json
    --figure load.png
    """
    from policy_server.bench.host import host
    from policy_server.bench.load import figure, load_report

    counts = parse_clients(options.clients)
    if options.figure:
        figure.check()
    here = host()
    about, policy = _policy(options)
    plans = [options.plan(n_clients, policy) for n_clients in counts]
    print(_title(about, plans[0]), flush=True)
    measured = _measure(plans, options.processes)
    results = [{**about, **load_report.result(one)} for one in measured]
    _report(results)
    sweep = {"sweep": {f"clients_{one['n_clients']}": one for one in results}}
    said = {**(results[0] if len(counts) == 1 else sweep), "host": here}
    write_each(lambda: save_samples(options.samples, measured), lambda: _write(options.json, said))
    if options.figure:
        figure.draw(options.figure, measured)
        print(f"drawn to {options.figure}")
    return 130 if measured[-1].interrupted else 0


def compare(before: Positional[Path], after: Positional[Path]) -> int:
    """Compare two results that were written with --json.

    Example: edp bench --compare before.json after.json

    Args:
        before: The earlier result.
        after: The later result.
    """
    from policy_server.bench import compare as results

    old, new = (json_module.loads(path.read_text()) for path in (before, after))
    print(results.compare(old, new))
    return 0


def parse_clients(text: str) -> list[int]:
    """Returns the numbers of clients to measure.

    Raises:
        ValueError: The text is no list of whole numbers with commas, or a number is in it twice.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--clients {text!r}: expected whole numbers with commas, e.g. 1,4,16")
    counts = [int(part) for part in parts]
    if len(set(counts)) < len(counts):
        raise ValueError(f"--clients {text!r}: a number is there twice; give each once")
    return counts


def save_samples(path: Path | None, measured: list[Any]) -> None:
    """Writes an array for each column of `LoadSamples`; n_clients tells measurements apart.

    Does nothing where `path` is None.
    """
    if path is None:
        return
    columns: dict[str, Any] = {
        name: np.concatenate([one.columns[name] for one in measured])
        for name in measured[0].columns
    }
    counts = [np.full(len(one.columns["client"]), one.plan.n_clients) for one in measured]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, n_clients=np.concatenate(counts), **columns)
    print(f"raw samples written to {path}")


def _measure(plans: list[Any], n_processes: int | None):
    """Returns the measurement of each plan; Ctrl-C skips the plans that are left."""
    from policy_server.bench.load.plan import default_processes, run

    measured = []
    if n_processes is not None:
        at_least_one("--processes", n_processes)
    for plan in plans:
        n = min(n_processes or default_processes(plan.n_clients), plan.n_clients)
        measured.append(run(plan, n))
        if measured[-1].interrupted:
            print("stopped by Ctrl-C; measured until then:")
            break
    return measured


def _policy(options: LoadOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what the result says about the policy, and what the plan has to know about it.

    Raises:
        ServerError: No server answers, or the keys cannot be read.
        BundleError: The bundle is damaged.
    """
    from policy_server.bench.latency import middle_obs
    from policy_server.contract.bundle import Bundle
    from policy_server.control.client import PolicyClient
    from policy_server.transport.keys import client_keys

    keys = client_keys(options.keys, has_server=not options.bundle)
    if options.bundle:
        bundle = Bundle.load(options.bundle)
        manifest = bundle.manifest
        about = {"bundle_hash": bundle.hash, "provider": options.provider}
    else:
        with PolicyClient(options.server, options.timeout_s, keys) as client:
            hello = client.hello()
            manifest = client.manifest
        about = {key: hello[key] for key in ("bundle_hash", "provider")}
    obs = tuple(float(value) for value in middle_obs(manifest))
    reply_bytes = 4 * manifest.horizon * manifest.act_dim
    return {"policy": manifest.name, **about}, {"obs": obs, "reply_bytes": reply_bytes}


def _title(about: dict[str, Any], plan: Any) -> str:
    where = plan.endpoint or "in process"
    how = f"fixed rate, {plan.rate_hz:g} Hz each" if plan.rate_hz else "closed loop"
    return f"{about['policy']} at {where}, provider {about['provider']}, {how}"


def _report(results: list[dict[str, Any]]) -> None:
    """Prints the table, the parts of a single measurement, and warnings."""
    from policy_server.bench.load import load_report

    print(load_report.table(results))
    if len(results) == 1:
        print()
        _show(results[0])
    for one in results:
        for warning in load_report.warnings(one):
            print(f"note, {one['n_clients']} clients: {warning}")


def _show(result: dict[str, Any]) -> None:
    """Prints the summaries of a result as a table [us]."""
    from policy_server.bench.load.load_report import number

    print(f"{'[us]':14}{'p50':>10}{'p99':>10}{'p999':>10}{'max':>10}   95 % interval of p99")
    for name, row in result.items():
        if isinstance(row, dict) and "p99_ci" in row:
            low, high = ("?" if bound is None else f"{bound:.1f}" for bound in row["p99_ci"])
            values = [f"{number(row[key]):>10}" for key in ("p50", "p99", "p999", "max")]
            print(f"{name.removesuffix('_us'):14}{''.join(values)}   [{low}, {high}]")


def _write(path: Path | None, result: dict[str, Any]) -> None:
    """Writes a result and says where."""
    write_json(path, result)
    if path is not None:
        print(f"written to {path}")
