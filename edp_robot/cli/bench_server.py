"""What `edp bench latency|load|compare` do; each function returns an exit code."""

import json as json_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edp_robot.cli.guard import guarded
from policy_server.bench import latency as bench
from policy_server.bench.load import figure as load_figure
from policy_server.bench.load import load_report
from policy_server.bench.load.plan import LoadPlan, LoadSamples, default_processes, run
from policy_server.bench.statistics import summary
from policy_server.contract.bundle import Bundle, Precision
from policy_server.contract.manifest import Manifest
from policy_server.control.client import PolicyClient
from policy_server.runtime.base import Provider, load
from policy_server.transport.keys import client_keys


def bench_latency(
    bundle: str,
    provider: Provider = "auto",
    n: int = 5000,
    precision: Precision = "fp32",
    json: Path | None = None,
) -> int:
    """Measure a policy's latency in this process, one observation at a time.

    Example: edp bench latency runs/demo/bundle --provider cpu --json latency.json

    Args:
        bundle: Folder of the policy bundle.
        provider: What computes; auto takes the faster of CPU and CUDA.
        n: Queries to time, after 100 to warm up.
        precision: fp32, or what `edp calibrate quant` has put into the bundle.
        json: File to write the result to.
    """

    def work() -> None:
        here = bench.host()
        backend = load(bundle, provider, precision=precision)
        error, golden = backend.self_test(), backend.golden
        samples_us = bench.bench_backend(backend, golden["obs"][:1], golden["noise"][:1], n)
        result = {
            "inference_us": summary(samples_us),
            "provider": backend.provider,
            "self_test_error": error,
        }
        print(f"{backend.manifest.name}, provider {backend.provider}, {n} queries in this process")
        _show(result)
        _write(json, {**result, "policy": backend.manifest.name, "host": here})

    return guarded("bench latency", work)


def bench_load(
    server: str = "tcp://127.0.0.1:5599",
    bundle: str | None = None,
    clients: str = "1",
    rate: float | None = None,
    n: int = 20_000,
    seconds: float | None = None,
    deadline_s: float | None = None,
    warmup_s: float = 0.5,
    timeout_s: float = 1.0,
    processes: int | None = None,
    provider: Provider = "auto",
    json: Path | None = None,
    samples: Path | None = None,
    figure: Path | None = None,
    keys: Path | None = None,
) -> int:
    """Measure latency under the load of one or many robots, network included; Ctrl-C reports what there is so far.

    Example: edp bench load --clients 1,4,16,64 --rate 50 --deadline-s 0.02 --json load.json --figure load.png

    Args:
        server: Endpoint of the server, tcp://HOST:PORT or ipc://PATH.
        bundle: Folder of a bundle to run in the clients' own processes instead.
        clients: How many, 1 to 64; several numbers with commas are measured one after the other.
        rate: Requests per second of each client, counted from the scheduled send; where not given, each client
            asks again as soon as it is answered.
        n: Requests to measure, of all clients together.
        seconds: How long to measure instead of n [s].
        deadline_s: Count who is answered later than this; the server is told [s].
        warmup_s: Load before the measurement [s].
        timeout_s: When an answer counts as lost [s].
        processes: That play the clients; one a core where not given.
        provider: What computes a --bundle.
        json: File to write the result to.
        samples: File (.npz) for the raw samples.
        figure: Picture of latency over time and of the tail, e.g. load.png.
        keys: A client's NAME.key_secret, or the folder with it and server.key, for a server with keys.
    """

    asked = {"rate_hz": rate, "n_requests": n, "duration_s": seconds, "deadline_s": deadline_s}
    asked |= {"warmup_s": warmup_s, "timeout_s": timeout_s}
    where, files = (server, bundle, provider, timeout_s, keys), _Files(json, samples, figure)
    return guarded("bench load", lambda: _load(where, asked, clients, processes, files))


class _Files(NamedTuple):
    """Where a measurement is written to."""

    json: Path | None
    samples: Path | None
    figure: Path | None


def _load(
    where: tuple, asked: dict[str, Any], clients: str, processes: int | None, files: _Files
) -> int:
    """Measures, prints and writes; returns the exit code."""
    counts = parse_clients(clients)
    if files.figure:
        load_figure.check()
    here, (about, target) = bench.host(), _target(*where)
    plans = [LoadPlan(**target, **asked, n_clients=k) for k in counts]
    print(_title(about, plans[0]), flush=True)
    measured = _measure(plans, processes)
    results = [{**about, **load_report.result(one)} for one in measured]
    _report(results)
    if files.samples:
        save_samples(files.samples, measured)
    single = (
        results[0]
        if len(counts) == 1
        else {"sweep": {f"clients_{r['n_clients']}": r for r in results}}
    )
    _write(files.json, {**single, "host": here})
    if files.figure:
        load_figure.draw(files.figure, measured)
        print(f"drawn to {files.figure}")
    return 130 if measured[-1].interrupted else 0


def bench_compare(before: Path, after: Path) -> int:
    """Compare two results that were written with --json.

    Example: edp bench --compare before.json after.json

    Args:
        before: The earlier result.
        after: The later result.
    """

    def work() -> None:
        print(
            bench.compare(*(json_module.loads(Path(path).read_text()) for path in (before, after)))
        )

    return guarded("bench --compare", work)


def parse_clients(text: str) -> list[int]:
    """Returns the numbers of clients to measure. Raises ValueError for anything but whole numbers with commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--clients {text!r}: expected whole numbers with commas, e.g. 1,4,16")
    counts = [int(part) for part in parts]
    if len(set(counts)) < len(counts):
        raise ValueError(f"--clients {text!r}: a number is there twice")
    return counts


def save_samples(path: Path, measured: list[LoadSamples]) -> None:
    """Writes the raw samples of all measurements, one array for each column, and n_clients, which tells them apart.

    Args:
        path: File (.npz).
        measured: See `LoadSamples.columns`.
    """
    columns: dict[str, Any] = {
        name: np.concatenate([one.columns[name] for one in measured])
        for name in measured[0].columns
    }
    columns["n_clients"] = np.concatenate(
        [np.full(len(m.columns["client"]), m.plan.n_clients) for m in measured]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **columns)
    print(f"raw samples written to {path}")


def _measure(plans: list[LoadPlan], n_processes: int | None) -> list[LoadSamples]:
    """Returns the measurement of each plan, those until Ctrl-C."""
    measured = []
    for plan in plans:
        n = min(n_processes or default_processes(plan.n_clients), plan.n_clients)
        measured.append(run(plan, n))
        if measured[-1].interrupted:
            print("stopped by Ctrl-C; measured until then:")
            break
    return measured


def _target(
    server: str, bundle: str | None, provider: Provider, timeout_s: float, keys: Path | None
) -> tuple[dict, dict[str, Any]]:
    """Returns what the result says of the policy, and the plan's part of where it is and what it wants."""
    found_keys = client_keys(keys, has_server=not bundle)
    if bundle:
        found = Bundle.load(bundle)
        about = {"bundle_hash": found.hash, "provider": provider}
        return _named(found.manifest, about), _wants(found.manifest) | {
            "bundle": bundle,
            "provider": provider,
        }
    with PolicyClient(server, timeout_s, found_keys) as client:
        hello = client.hello()
        about = {"bundle_hash": hello["bundle_hash"], "provider": hello["provider"]}
        return _named(client.manifest, about), _wants(client.manifest) | {
            "endpoint": server,
            "keys": keys and str(keys),
        }


def _named(manifest: Manifest, about: dict[str, Any]) -> dict[str, Any]:
    return {"policy": manifest.name, **about}


def _wants(manifest: Manifest) -> dict[str, Any]:
    obs = tuple(float(value) for value in bench.middle_obs(manifest))
    return {"obs": obs, "reply_bytes": 4 * manifest.horizon * manifest.act_dim}


def _title(about: dict[str, Any], plan: LoadPlan) -> str:
    where = plan.endpoint or "in process"
    how = f"fixed rate, {plan.rate_hz:g} Hz each" if plan.rate_hz else "closed loop"
    return f"{about['policy']} at {where}, provider {about['provider']}, {how}"


def _report(results: list[dict[str, Any]]) -> None:
    """Prints the table, a single measurement's parts, and warnings."""
    print(load_report.table(results))
    if len(results) == 1:
        print()
        _show(results[0])
    for one in results:
        for warning in load_report.warnings(one):
            print(f"note, {one['n_clients']} clients: {warning}")


def _show(result: dict[str, Any]) -> None:
    """Prints the summaries of a result as a table [us]."""
    print(f"{'[us]':14}{'p50':>10}{'p99':>10}{'p999':>10}{'max':>10}   95 % interval of p99")
    for name, row in result.items():
        if isinstance(row, dict) and "p99_ci" in row:
            low, high = ("?" if bound is None else f"{bound:.1f}" for bound in row["p99_ci"])
            values = "".join(
                f"{load_report.number(row[key]):>10}" for key in ("p50", "p99", "p999", "max")
            )
            print(f"{name.removesuffix('_us'):14}{values}   [{low}, {high}]")


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(
            json_module.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n"
        )
        print(f"written to {path}")
