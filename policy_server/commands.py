"""What `edp serve` and `edp bench latency|load|compare` do; each function returns an exit code."""

import json as json_module
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policy_server import bench
from policy_server.backends import BackendError, Provider, load
from policy_server.bundle import BundleError, Precision
from policy_server.endpoint import ServerError
from policy_server.errors import PolicyError, PolicyTimeout
from policy_server.stats import summary

_FAILURES = (BundleError, BackendError, ServerError, PolicyError, PolicyTimeout, OSError, ValueError)


def serve(
    bundle: str,
    bind: str = "tcp://127.0.0.1:5599",
    provider: Provider = "auto",
    seed: int = 0,
    precision: Precision = "fp32",
) -> int:
    """Serve a policy to robots until Ctrl-C.

    Example: edp serve runs/demo/bundle --bind tcp://127.0.0.1:5599

    Args:
        bundle: Folder of the policy bundle.
        bind: Where to listen: tcp://127.0.0.1:PORT (* for a free port) or ipc://PATH; loopback only.
        provider: What computes; auto takes the faster of CPU and CUDA. One that is named is used or refused.
        seed: Seed of the noise that the policy samples with.
        precision: fp32, or what `edp calibrate quant` has put into the bundle.
    """

    def work() -> None:
        from policy_server.server import PolicyServer

        PolicyServer(bundle, bind, provider, seed, precision).run()

    return _guarded("serve", work)


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
        backend = load(bundle, provider, precision=precision)
        error, golden = backend.self_test(), backend.golden
        samples_us = bench.bench_backend(backend, golden["obs"][:1], golden["noise"][:1], n)
        result = {"inference_us": summary(samples_us), "provider": backend.provider, "self_test_error": error}
        print(f"{backend.manifest.name}, provider {backend.provider}, {n} queries in this process")
        _show(result)
        _write(json, {**result, "policy": backend.manifest.name, "host": bench.host()})

    return _guarded("bench latency", work)


def bench_load(server: str = "tcp://127.0.0.1:5599", n: int = 20_000, json: Path | None = None) -> int:
    """Measure a running server's latency as a robot sees it, network included.

    Example: edp bench load --server tcp://127.0.0.1:5599 --json load.json

    Args:
        server: Endpoint of the server.
        n: Queries to time, after 200 to warm up.
        json: File to write the result to.
    """

    def work() -> None:
        result = bench.bench_roundtrip(server, n)
        del result["samples_us"]
        print(f"{result['policy']} at {server}, provider {result['provider']}, one client, {n} queries in a row")
        _show(result)
        _write(json, {**result, "server": server, "host": bench.host()})

    return _guarded("bench load", work)


def bench_compare(before: Path, after: Path) -> int:
    """Compare two results that were written with --json.

    Example: edp bench --compare before.json after.json

    Args:
        before: The earlier result.
        after: The later result.
    """

    def work() -> None:
        print(bench.compare(*(json_module.loads(Path(path).read_text()) for path in (before, after))))

    return _guarded("bench --compare", work)


def _guarded(name: str, work: Callable[[], None]) -> int:
    """Returns 0 after `work`, or 1 and one line on stderr where it fails in a way that a person can mend."""
    try:
        work()
    except _FAILURES as error:
        print(f"edp {name}: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _show(result: dict[str, Any]) -> None:
    """Prints the summaries of a result as a table [us]."""
    print(f"{'[us]':14}{'p50':>10}{'p99':>10}{'p999':>10}{'max':>10}   95 % interval of p99")
    for name, row in result.items():
        if isinstance(row, dict) and row.get("n"):
            low, high = ("?" if bound is None else f"{bound:.1f}" for bound in row["p99_ci"])
            values = "".join(f"{row[key]:10.1f}" for key in ("p50", "p99", "p999", "max"))
            print(f"{name.removesuffix('_us'):14}{values}   [{low}, {high}]")


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json_module.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")
        print(f"written to {path}")
