"""What a server must bear: a million requests, a hostile peer, reloads under load.

    python benchmarks/soak.py {requests,hostile,reload,all} [--n N] [--out results/soak]

`requests`: clients in a closed loop; every sequence number is accounted for (lost, answered twice), and the server's
memory is sampled. `hostile`: a robot asks at a fixed rate, in turn beside a peer that sends bad frames, beside the same
peer at another server (which takes as much of the CPU), and alone. Three passes: `paced`, frames at a rate
(--hostile-hz); `remote`, the same from a peer of the lowest priority, since a stranger's computer would not take the
robot's CPU; `flood`, as fast as the peer can. `reload`: two policies take turns in service under load, and each answer
is compared with the policy that it names.

`edp serve` runs in a process of its own, with a student-sized policy of random weights, on the CPU, over tcp. Writes
PART.json, PART.npz (raw arrays), table.md and soak.png to --out. The exit code is 1 where a part does not do what it
must. A latency beside an attack wants a quiet machine with a core each for server, robot and peer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from peer_patterns.student import student
from soaking import figure, hostile, reloads, requests
from soaking.table import table

from policy_server.bench.latency import host

ROOT = Path(__file__).parents[1]
N = {"requests": 1_000_000, "hostile": 100_000, "reload": 100}
PASSES = {
    "paced": (True, 0),
    "remote": (True, 19),
    "flood": (False, 0),
}  # of `hostile`: whether at a rate, niceness
Measured = tuple[dict[str, Any], dict[str, np.ndarray]]


def measure_requests(folder: Path, n: int, args: argparse.Namespace) -> Measured:
    """Returns (result, arrays)."""
    return requests.run(student(folder / "student"), folder, n, args.clients)


def measure_hostile(folder: Path, n: int, args: argparse.Namespace) -> Measured:
    """Returns (result, arrays) of each of PASSES; `met` asks for the first one alone."""
    bundle, result, arrays = student(folder / "student"), {}, {}
    for name, (paced, niceness) in PASSES.items():
        print(f"hostile, {name}", flush=True)
        attack = hostile.Attack(n, args.hostile_hz if paced else 0.0, args.segments, niceness)
        result[name], found = hostile.run(
            bundle, folder, attack, args.robot_hz, args.deadline_ms / 1000
        )
        arrays |= {f"{name}_{key}": value for key, value in found.items()}
    return {**result, "met": result["paced"]["met"]}, arrays


def measure_reload(folder: Path, n: int, args: argparse.Namespace) -> Measured:
    """Returns (result, arrays)."""
    return reloads.run(student(folder / "student"), folder, n, args.reload_clients)


PARTS = {"requests": measure_requests, "hostile": measure_hostile, "reload": measure_reload}


def line(part: str, result: dict[str, Any]) -> str:
    """Returns what a part found, in a line or two."""
    if part == "hostile":
        return "\n".join(_attack_line(name, result[name]) for name in PASSES)
    counts = ", ".join(
        f"{result[f'n_{name}']} {name}" for name in ("sent", "once", "lost", "twice", "stray")
    )
    if part == "requests":
        memory = f"RSS {result['rss_10_mib']:.1f} MiB at 10 %, {result['rss_end_mib']:.1f} MiB at the end"
        return f"requests: {counts}; {result['requests_hz']:.0f}/s; {memory}"
    gap = f"longest gap {result['longest_gap_s'] * 1000:.0f} ms"
    failed = f"{result['n_reloads']}, {result['n_reloads_failed']} failed"
    return f"reload: {failed}; {counts}, {result['n_wrong']} wrong; {gap}"


def _attack_line(name: str, found: dict[str, Any]) -> str:
    peer, kinds = found["peer"], ("alone", "attacked", "neighbour")
    p99 = ", ".join(f"{kind} {found[kind]['p99'] or np.inf:.0f}" for kind in kinds)
    missed = ", ".join(f"{found[kind]['n_missed']} of {found[kind]['n']}" for kind in kinds)
    looked_at, rate = sum(peer["answers"].values()), peer["n"] / peer["elapsed_s"]
    return f"hostile, {name}: {peer['n']} frames at {rate:.0f}/s, {looked_at} answered; p99 [us] {p99}; missed {missed}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "all"], help="what to do")
    sizes = ", ".join(f"{n} for {part}" for part, n in N.items())
    parser.add_argument("--n", type=int, help=f"requests, bad frames or reloads; default {sizes}")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "soak", help="folder for the results"
    )
    parser.add_argument("--clients", type=int, default=8, help="clients of `requests`")
    parser.add_argument("--reload-clients", type=int, default=4, help="clients of `reload`")
    parser.add_argument(
        "--robot-hz",
        type=float,
        default=200.0,
        help="rate of the robot beside the hostile peer [1/s]",
    )
    parser.add_argument("--deadline-ms", type=float, default=20.0, help="of that robot [ms]")
    parser.add_argument(
        "--hostile-hz", type=float, default=2000.0, help="rate of the bad frames, first pass [1/s]"
    )
    parser.add_argument(
        "--segments", type=int, default=10, help="turns of attack and peace, in each pass"
    )
    args = parser.parse_args(argv)
    numbers = {key: value for key, value in vars(args).items() if isinstance(value, int | float)}
    if bad := [
        f"--{key.replace('_', '-')} {value:g}" for key, value in numbers.items() if value <= 0
    ]:
        parser.error(f"{', '.join(bad)}: expected more than 0")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the parts, writes what they found as soon as each has ended, and returns an exit code."""
    args, well = parse(argv), True
    args.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS if args.part == "all" else [args.part]:
        try:
            with tempfile.TemporaryDirectory(prefix="soak-") as folder:
                result, arrays = PARTS[part](Path(folder), args.n or N[part], args)
        except (RuntimeError, OSError, ValueError) as error:
            print(f"soak: {part}: {error}", file=sys.stderr)
            return 1
        (args.out / f"{part}.json").write_text(
            json.dumps({**result, "host": host()}, indent=1) + "\n"
        )
        rounded: dict[str, Any] = {key: value.astype(np.float32) for key, value in arrays.items()}
        np.savez_compressed(args.out / f"{part}.npz", **rounded)
        print(f"{line(part, result)}\n{part}: {'met' if result['met'] else 'NOT met'}", flush=True)
        well &= result["met"]
    (args.out / "table.md").write_text(table(args.out))
    print(f"written to {args.out}, {figure.draw(args.out)}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
