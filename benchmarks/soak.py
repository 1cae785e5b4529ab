"""Tests what a server must bear: a million requests, a hostile peer, reloads under load.

    python benchmarks/soak.py {requests,hostile,reload,all} [--n N] [--out results/soak]

`requests`: clients ask in a closed loop. Every sequence number is accounted for (lost, answered
twice), and the server's memory is sampled.

`hostile`: a robot asks at a fixed rate, in turn beside a peer that sends bad frames, beside the
same peer at another server (which takes as much of the CPU), and alone. There are three passes:
`paced`, frames at a rate (--hostile-hz); `remote`, the same from a peer of the lowest priority,
since a peer on another computer would not take the robot's CPU; `flood`, as fast as the peer can.

`reload`: two policies take turns in service under load. Each answer is compared with the policy
that it names.

`edp serve` runs in its own process on the CPU over tcp, with a student-sized policy of random
weights. The results are PART.json, PART.npz (raw arrays), table.md and soak.png. The exit status is
1 where a part does not do what it must. Latency beside an attack needs a quiet machine with a core
each for server, robot and peer.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from peer_patterns.student import student
from soaking import figure, hostile, reloads, requests
from soaking.table import read_results, table

from policy_server.bench.host import host
from policy_server.contract.disk.files import write_atomic, write_json

ROOT = Path(__file__).parents[1]
Part = Literal["requests", "hostile", "reload"]
N: dict[Part, int] = {"requests": 1_000_000, "hostile": 100_000, "reload": 100}
PASSES = {"paced": (True, 0), "remote": (True, 19), "flood": (False, 0)}  # (at a rate, niceness)
Measured = tuple[dict[str, Any], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Options:
    """What to do."""

    part: tyro.conf.Positional[Part | Literal["all"]]
    """what to do"""
    n: int | None = None
    """requests (default 1,000,000), bad frames (100,000) or reloads (100)"""
    out: Path = ROOT / "results" / "soak"
    """folder for the results"""
    clients: int = 8
    """clients of `requests`"""
    reload_clients: int = 4
    """clients of `reload`"""
    robot_hz: float = 200.0
    """rate of the robot beside the hostile peer [1/s]"""
    deadline_ms: float = 20.0
    """deadline of that robot [ms]"""
    hostile_hz: float = 2000.0
    """rate of the bad frames in the first two passes [1/s]"""
    segments: int = 10
    """turns of attack and peace in each pass"""

    def __post_init__(self) -> None:
        """Checks the numbers."""
        numbers = {k: v for k, v in asdict(self).items() if isinstance(v, int | float)}
        bad = [f"{name} {value:g}" for name, value in numbers.items() if value <= 0]
        if bad:
            raise ValueError(f"got {', '.join(bad)}; expected more than 0")


def measure(part: Part, folder: Path, options: Options) -> Measured:
    """Returns (result, arrays) of a part.

    Args:
        part: The part to run.
        folder: Where bundles, sockets and logs go.
        options: Sizes, rates and numbers of clients.
    """
    bundle = student(folder / "student")
    n = options.n or N[part]
    if part == "requests":
        return requests.run(bundle, folder, n, options.clients)
    if part == "reload":
        return reloads.run(bundle, folder, n, options.reload_clients)
    result: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, (paced, niceness) in PASSES.items():
        print(f"hostile, {name}", flush=True)
        rate_hz = options.hostile_hz if paced else 0.0
        attack = hostile.Attack(n, rate_hz, options.segments, niceness)
        deadline_s = options.deadline_ms / 1000
        result[name], found = hostile.run(bundle, folder, attack, options.robot_hz, deadline_s)
        arrays |= {f"{name}_{key}": value for key, value in found.items()}
    return {**result, "met": result["paced"]["met"]}, arrays  # the verdict is of the first pass


def run(part: Part, options: Options) -> bool:
    """Runs a part, writes what it found, and returns whether it did what it must."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result, arrays = measure(part, Path(folder), options)
    write_json(options.out / f"{part}.json", {**result, "host": host()})
    rounded: dict[str, Any] = {key: value.astype(np.float32) for key, value in arrays.items()}
    np.savez_compressed(options.out / f"{part}.npz", **rounded)
    print(f"\n{table({part: result})}{part}: {'met' if result['met'] else 'NOT met'}", flush=True)
    return result["met"]


def main(argv: list[str] | None = None) -> int:
    """Runs the parts, writes what they found as soon as each has ended, returns an exit status."""
    options = tyro.cli(Options, args=argv, description=__doc__)
    parts: list[Part] = list(N) if options.part == "all" else [options.part]
    met = []
    for part in parts:
        try:
            met.append(run(part, options))
        except (RuntimeError, OSError, ValueError) as error:
            print(f"soak: {part}: {error}", file=sys.stderr)
            return 1
    write_atomic(options.out / "table.md", table(read_results(options.out)))
    print(f"written to {options.out}, {figure.draw(options.out)}")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
