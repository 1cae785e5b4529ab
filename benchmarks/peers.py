"""Times the same policy behind the patterns that are in use elsewhere, in one run.

    python benchmarks/peers.py [--bundle BUNDLE] [--rounds 60] [--n 300] [--only edp-tcp openpi]

The patterns are `edp serve` over tcp, over ipc, and over ipc with --busy-poll-s; openpi's
websocket; GR00T's REQ/REP with msgpack; LeRobot's gRPC with pickle (see `peer_patterns`). Each
server and each client is a process. All serve one bundle on the CPU; the peers use batch 1.

One client is measured first, then many that ask again as soon as they are answered. The many run
twice: free, where the kernel puts them, and apart, with the server on a core of its own and the
clients on the others. All patterns are up and take turns in short rounds, so that a drift of the
machine's speed meets all of them. A pattern sleeps while another has its turn.

Without --bundle the policy has the size of a student and random weights. The results are table.md,
samples.npz, peers.json and latency.png. Needs the extra `bench` and a quiet machine. openpi's
client needs an environment of its own (.venv-peers, or $VENV_PEERS), which is built if missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from peer_patterns import PATTERNS, Pattern, report
from peer_patterns.processes import OBS_FILE, Process, build_openpi, clients, openpi_built, server
from peer_patterns.student import student

from policy_server.bench.host import host
from policy_server.contract.bundle import Bundle
from policy_server.contract.disk.files import write_atomic, write_json

ROOT = Path(__file__).parents[1]
WARMUP = 200  # requests: a core that slept is slow for its first 20 ms
Place = Literal["free", "apart"]
Samples = dict[str, list[np.ndarray]]
COUNTS = ("rounds", "n", "rounds_many", "processes", "threads")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    bundle: Path | None = None
    """policy to serve; default: student-sized, random weights"""
    out: Path = ROOT / "results" / "peers"
    """folder for the results"""
    only: tuple[Pattern, ...] = PATTERNS
    """patterns to run"""
    rounds: int = 60
    """rounds of one client"""
    n: int = 300
    """requests of each pattern in a round"""
    rounds_many: int = 15
    """rounds of many clients"""
    seconds: float = 1.0
    """length of a round of many clients [s]; 0: none"""
    processes: int = 16
    """processes of the many clients"""
    threads: int = 1
    """clients in each process, one thread each"""
    place: tuple[Place, ...] = ("free", "apart")
    """where the many run; apart needs more than one core"""

    def __post_init__(self) -> None:
        """Checks the counts."""
        bad = [f"{name} {asdict(self)[name]}" for name in COUNTS if asdict(self)[name] < 1]
        if bad:
            raise ValueError(f"got {', '.join(bad)}; expected 1 or more")

    @property
    def n_clients(self) -> int:
        """The number of the many clients."""
        return self.processes * self.threads

    def places(self) -> tuple[Place, ...]:
        """Returns the places that this machine has."""
        return self.place if len(os.sched_getaffinity(0)) > 1 else ("free",)


@dataclass(frozen=True)
class Meeting:
    """Measures the patterns against each other.

    Attributes:
        bundle: The bundle that all of them serve.
        folder: Where sockets and logs go.
        options: Patterns, rounds and clients.
    """

    bundle: Path
    folder: Path
    options: Options

    @contextlib.contextmanager
    def running(self, place: Place | None = None) -> Iterator[dict[str, list[Process]]]:
        """Yields the client processes of each pattern, connected to a server each.

        `place` says where the many clients run. None: there is one client.
        """
        server_cores, client_cores = _cores(place)
        n_processes = self.options.processes if place else 1
        n_threads = self.options.threads if place else 1
        with contextlib.ExitStack() as stack:
            found = {}
            for name in self.options.only:
                served = server(name, self.bundle, self.folder, server_cores)
                endpoint = stack.enter_context(served)
                asking = clients(name, endpoint, self.folder, n_processes, n_threads, client_cores)
                found[name] = stack.enter_context(asking)
            yield found

    def one(self) -> Samples:
        """Returns the latencies of one client, (n,) [us] for each round of each pattern."""
        n = self.options.n
        samples: Samples = {name: [] for name in self.options.only}
        with self.running() as workers:
            for i in range(self.options.rounds):
                for name in _turned(self.options.only, i):
                    worker = workers[name][0]
                    times_ns = worker.ask(op="timed", n=n, warmup=WARMUP, timeout_s=60 + 0.1 * n)
                    samples[name].append(np.array(times_ns) / 1000)
                _progress(f"one client, round {i + 1} of {self.options.rounds}", samples)
        return samples

    def many(self, place: Place) -> Samples:
        """Returns the latencies of many clients, (n,) [us] for each round of each pattern."""
        options = self.options
        samples: Samples = {name: [] for name in options.only}
        if options.seconds <= 0:
            return samples
        title = f"{options.n_clients} clients, {place}"
        with self.running(place) as workers:
            for i in range(options.rounds_many):
                for name in _turned(options.only, i):
                    samples[name].append(_load(name, workers[name], options.seconds))
                _progress(f"{title}, round {i + 1} of {options.rounds_many}", samples)
        return samples


def _load(name: str, workers: list[Process], seconds: float) -> np.ndarray:
    """Returns the latencies of all of a pattern's clients at once, (n,) [us]."""
    start_ns = time.monotonic_ns() + 200_000_000
    for worker in workers:
        worker.tell(op="load", start_ns=start_ns, seconds=seconds)
    parts = [json.loads(worker.line(seconds + 60)) for worker in workers]
    if not any(parts):
        raise RuntimeError(f"{name} gave no answer within {seconds:g} s; give more with --seconds")
    return np.array([value for part in parts for value in part]) / 1000


def _cores(place: Place | None) -> tuple[frozenset[int], frozenset[int]]:
    """Returns the cores of the server and of its clients; empty means all."""
    if place != "apart":
        return frozenset(), frozenset()
    mine = sorted(os.sched_getaffinity(0))
    return frozenset(mine[:1]), frozenset(mine[1:])


def _turned(names: tuple[Pattern, ...], i: int) -> tuple[Pattern, ...]:
    """Returns the names in an order that starts elsewhere in each round."""
    start = i % len(names)
    return names[start:] + names[:start]


def _progress(title: str, samples: Samples) -> None:
    medians = ", ".join(f"{name} {np.median(rows[-1]):.0f}" for name, rows in samples.items())
    print(f"{title}: median [us] {medians}", flush=True)


def run(options: Options, folder: Path) -> tuple[dict[str, Any], dict[str, Samples]]:
    """Returns the result, and the samples of one client and of many by place."""
    bundle = Bundle.load(options.bundle) if options.bundle else student(folder / "student")
    np.save(folder / OBS_FILE, bundle.golden()["obs"].astype(np.float32))
    meeting = Meeting(bundle.path, folder, options)
    samples = {"one": meeting.one(), **{place: meeting.many(place) for place in options.places()}}
    one = {name: report.percentiles(rows) for name, rows in samples["one"].items()}
    many = {
        place: {
            name: report.rates(rows, options.seconds)
            for name, rows in samples[place].items()
            if rows
        }
        for place in options.places()
    }
    settings = {name: asdict(options)[name] for name in (*COUNTS, "seconds")}
    result = {
        "bundle": bundle.manifest.name,
        "bundle_hash": bundle.hash,
        "settings": {**settings, "clients": options.n_clients, "warmup": WARMUP},
        "one_client": one,
        "many_clients": many,
        "ratios": report.ratios(one, many),
        "host": {**host(), **report.versions()},
    }
    return result, samples


def write(out: Path, result: dict[str, Any], samples: dict[str, Samples]) -> None:
    """Writes table.md, peers.json, latency.png and samples.npz.

    Args:
        out: Folder to write to.
        result: The first value of `run`.
        samples: The second value of `run`. The file holds {one,free,apart}/PATTERN/ROUND, (n,)
            float32 [us].
    """
    write_atomic(out / "table.md", report.table(result))
    write_json(out / "peers.json", result)
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


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table, writes the results, and returns an exit status."""
    try:
        options = tyro.cli(Options, args=argv, description=__doc__)
        if "openpi" in options.only and not openpi_built():
            print("building the environment of openpi's client, once", flush=True)
            build_openpi()
        with tempfile.TemporaryDirectory(prefix="peers-") as folder:
            result, samples = run(options, Path(folder))
    except (RuntimeError, OSError, ValueError) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    write(options.out, result, samples)
    print(f"\n{report.table(result)}\nwritten to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
