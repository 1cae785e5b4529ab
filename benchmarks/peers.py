"""The same policy behind the patterns in use elsewhere, in one run, side by side.

    python benchmarks/peers.py [--bundle BUNDLE] [--rounds 60] [--n 300] [--only edp-tcp openpi] [--json FILE]

`edp serve` over tcp, over ipc, and over ipc with --busy-poll-s; openpi's websocket, GR00T's REQ/REP with msgpack,
LeRobot's gRPC with pickle (see `peer_patterns`): each server a process, each client a process, one bundle behind all of
them, on the CPU, batch 1 for the peers. First one client, then many, who ask again as soon as they are answered; the
many once where the kernel puts them, and once with the server on a core of its own and the clients on the others. All
patterns are up; they take turns in short rounds, so that a machine whose speed drifts is the same for all, and who has
no turn sleeps.
Without --bundle, a student-sized policy with random weights. Writes table.md, samples.npz, peers.json and latency.png
to --out. It wants the extra `bench` and a quiet machine; openpi's client gets an environment of its own (.venv-peers,
or $VENV_PEERS), which is built where it is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peer_patterns import PATTERNS, report
from peer_patterns.processes import OBS_FILE, Process, build_openpi, clients, openpi_built, server
from peer_patterns.student import student

from policy_server.bench.latency import host
from policy_server.contract.bundle import Bundle

ROOT = Path(__file__).parents[1]
WARMUP = 200  # requests: a core that slept is slow for its first 20 ms
PLACES = (
    "free",
    "apart",
)  # where processes run: wherever the kernel likes, or the server on a core of its own
Samples = dict[str, list[np.ndarray]]


@contextlib.contextmanager
def running(
    bundle: Path,
    folder: Path,
    names: list[str],
    place: str = PLACES[0],
    n_processes: int = 1,
    n_threads: int = 1,
) -> Iterator[dict[str, list[Process]]]:
    """Yields the clients' processes of each pattern, connected to a server of its own; who is not asked sleeps."""
    first, others = _cores(place)
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            endpoint = stack.enter_context(server(name, bundle, folder, first))
            found[name] = stack.enter_context(
                clients(name, endpoint, folder, n_processes, n_threads, others)
            )
        yield found


def measure_one(bundle: Path, folder: Path, args: argparse.Namespace) -> Samples:
    """Returns each round's latencies by pattern, (n,) [us], of one client that asks again as soon as it is answered."""
    samples: Samples = {name: [] for name in args.only}
    with running(bundle, folder, args.only) as workers:
        for i in range(args.rounds):
            for name in _turned(args.only, i):
                times_ns = workers[name][0].ask(
                    op="timed", n=args.n, warmup=WARMUP, timeout_s=60 + 0.1 * args.n
                )
                samples[name].append(np.array(times_ns) / 1000)
            _progress(f"one client, round {i + 1} of {args.rounds}", samples)
    return samples


def measure_many(bundle: Path, folder: Path, args: argparse.Namespace, place: str) -> Samples:
    """Returns each round's latencies by pattern, (n,) [us], of many clients in a closed loop for --seconds."""
    samples: Samples = {name: [] for name in args.only}
    if args.seconds <= 0:
        return samples
    with running(bundle, folder, args.only, place, args.processes, args.threads) as workers:
        for i in range(args.rounds_many):
            for name in _turned(args.only, i):
                samples[name].append(_load(name, workers[name], args.seconds))
            _progress(
                f"{args.processes * args.threads} clients, {place}, round {i + 1} of {args.rounds_many}",
                samples,
            )
    return samples


def _load(name: str, workers: list[Process], seconds: float) -> np.ndarray:
    """Returns the latencies of all of a pattern's clients at once, (n,) [us]."""
    start_ns = time.monotonic_ns() + 200_000_000
    for worker in workers:
        worker.tell(op="load", start_ns=start_ns, seconds=seconds)
    parts = [json.loads(worker.line(seconds + 60)) for worker in workers]
    if not any(parts):
        raise RuntimeError(f"{name} answered nobody within {seconds:g} s; give more with --seconds")
    return np.array([value for part in parts for value in part]) / 1000


def _cores(place: str) -> tuple[frozenset[int], frozenset[int]]:
    """Returns the cores of the server and of its clients; empty for all."""
    mine = sorted(os.sched_getaffinity(0))
    return (
        (frozenset(mine[:1]), frozenset(mine[1:]))
        if place == "apart"
        else (frozenset(), frozenset())
    )


def _turned(names: list[str], i: int) -> list[str]:
    """Returns the names in an order that starts elsewhere in each round."""
    return names[i % len(names) :] + names[: i % len(names)]


def _progress(title: str, samples: Samples) -> None:
    medians = ", ".join(f"{name} {np.median(rows[-1]):.0f}" for name, rows in samples.items())
    print(f"{title}: median [us] {medians}", flush=True)


def run(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Samples]]:
    """Returns the result, and the samples of one client and of many, free and apart."""
    bundle = Bundle.load(args.bundle) if args.bundle else student(folder / "student")
    np.save(folder / OBS_FILE, bundle.golden()["obs"].astype(np.float32))
    samples = {"one": measure_one(bundle.path, folder, args)}
    samples |= {place: measure_many(bundle.path, folder, args, place) for place in args.place}
    one_rows = {name: report.percentiles(rows) for name, rows in samples["one"].items()}
    many_rows = {
        place: {
            name: report.rates(rows, args.seconds) for name, rows in samples[place].items() if rows
        }
        for place in args.place
    }
    settings = {
        key: getattr(args, key)
        for key in ("rounds", "n", "rounds_many", "seconds", "processes", "threads")
    }
    result = {
        "bundle": bundle.manifest.name,
        "bundle_hash": bundle.hash,
        "settings": {**settings, "clients": args.processes * args.threads, "warmup": WARMUP},
        "one_client": one_rows,
        "many_clients": many_rows,
        "ratios": report.ratios(one_rows, many_rows),
        "host": {**host(), **report.versions()},
    }
    return result, samples


def write(out: Path, result: dict[str, Any], samples: dict[str, Samples]) -> None:
    """Writes table.md, peers.json, latency.png and samples.npz ({one,free,apart}/PATTERN/ROUND, (n,) float32 [us])."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(report.table(result))
    (out / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
    arrays: dict[str, Any] = {
        f"{kind}/{name}/{i}": row.round(1).astype(np.float32)
        for kind, patterns in samples.items()
        for name, rows in patterns.items()
        for i, row in enumerate(rows)
    }
    np.savez_compressed(out / "samples.npz", **arrays)
    pooled = {
        kind: {name: np.concatenate(rows) for name, rows in patterns.items() if rows}
        for kind, patterns in samples.items()
    }
    report.figure(out / "latency.png", pooled, result["settings"]["clients"])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle", type=Path, help="policy to serve; default: student-sized, random weights"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "peers", help="folder for the results"
    )
    parser.add_argument("--json", type=Path, help="one more copy of peers.json")
    parser.add_argument(
        "--only", nargs="+", choices=PATTERNS, default=list(PATTERNS), help="patterns to run"
    )
    parser.add_argument("--rounds", type=int, default=60, help="rounds of one client")
    parser.add_argument("--n", type=int, default=300, help="requests of each pattern in a round")
    parser.add_argument("--rounds-many", type=int, default=15, help="rounds of many clients")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="length of a round of many clients [s]; 0: none"
    )
    parser.add_argument("--processes", type=int, default=16, help="processes of the many clients")
    parser.add_argument(
        "--threads", type=int, default=1, help="clients in each of them, a thread each"
    )
    parser.add_argument(
        "--place",
        nargs="+",
        choices=PLACES,
        help="where the many run; default: both, given more than one core",
    )
    args = parser.parse_args(argv)
    counts = {
        key: getattr(args, key) for key in ("rounds", "n", "rounds_many", "processes", "threads")
    }
    if bad := [f"--{key.replace('_', '-')} {value}" for key, value in counts.items() if value < 1]:
        parser.error(f"{', '.join(bad)}: expected 1 or more")
    args.only = list(dict.fromkeys(args.only))
    several = len(os.sched_getaffinity(0)) > 1
    args.place = list(dict.fromkeys(args.place or PLACES if several else PLACES[:1]))
    return args


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the results."""
    args = parse(argv)
    try:
        if "openpi" in args.only and not openpi_built():
            print("building the environment of openpi's client, once", flush=True)
            build_openpi()
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            result, samples = run(args, Path(folder))
    except (RuntimeError, OSError, ValueError) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    write(args.out, result, samples)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{report.table(result)}\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
