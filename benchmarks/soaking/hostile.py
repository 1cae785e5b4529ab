"""Part `hostile`: a robot asks alone and beside a peer that attacks its or another server."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peer_patterns.processes import Process

from policy_server.contract.bundle import Bundle
from policy_server.contract.clock import quiet
from policy_server.control.local import LocalPolicy
from soaking.good import Robot, Segment, pooled
from soaking.serving import Served, serving

WARMUP_S = 1.0
WAIT_S = 600.0


class Attack(NamedTuple):
    """How the robot's server is attacked.

    Attributes:
        n: Number of bad frames.
        rate_hz: Their rate [1/s]; 0 means as fast as the peer can.
        n_segments: Number of parts. After each the robot is alone for as long.
        niceness: Niceness of the peer's process. 0 takes the CPU like the robot; 19 leaves it to
            others, like a peer on another computer.
    """

    n: int
    rate_hz: float
    n_segments: int
    niceness: int = 0


def run(
    bundle: Bundle, folder: Path, attack: Attack, robot_hz: float, deadline_s: float
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns (result, arrays): latencies alone_us, attacked_us and neighbour_us.

    A latency is infinite where the deadline was missed. neighbour_us is measured beside the same
    attack on another server, which only takes the CPU.

    Args:
        bundle: The bundle to serve.
        folder: Where logs go.
        attack: The attack.
        robot_hz: Rate of the robot [1/s].
        deadline_s: Deadline of the robot's requests [s].
    """
    local = LocalPolicy(bundle.path, "cpu")
    rows = bundle.golden()["obs"]
    with (
        serving(bundle.path, folder) as server,
        serving(bundle.path, folder, log="other.log") as other,
        _peer(server, bundle, folder, attack.niceness) as peer,
        _peer(other, bundle, folder, attack.niceness) as other_peer,
        contextlib.closing(Robot(server.endpoint, local, rows, robot_hz, deadline_s)) as robot,
    ):
        rss_mib = server.rss_mib()
        with quiet():
            segments, seen = _take_turns(robot, {"attacked": peer, "neighbour": other_peer}, attack)
        ending = {
            "alive": server.process.alive,
            "exact": robot.exact(),
            "rss_mib": [rss_mib, server.rss_mib()],
            "n_files": server.n_files(),
            "n_tracebacks": server.log.count("Traceback"),
        }
    found = {name: pooled(part) for name, part in segments.items()}
    arrays = {
        f"{name}_us": np.concatenate([segment.latencies_us for segment in part])
        for name, part in segments.items()
    }
    return judged({**found, "peer": seen, **attack._asdict(), **ending}), arrays


@contextlib.contextmanager
def _peer(server: Served, bundle: Bundle, folder: Path, niceness: int) -> Iterator[Process]:
    """Yields a process that attacks this server when it is told to."""
    words = (server.endpoint, str(bundle.manifest.obs_dim), str(niceness))
    command = [sys.executable, "-m", "soaking.attacker", *words]
    peer = Process("the hostile peer", command, folder / "peer.log")
    try:
        peer.line()
        yield peer
    finally:
        peer.end()


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result with its verdict.

    p99_ratio compares attacked to alone, p99_ratio_neighbour to the same attack on another server.
    "met" means no crash, no wrong answer, no leak, and p99 at most twice that of the robot alone.
    """
    ratio = _p99_ratio(result, "alone")
    wrong = result["alone"]["n_wrong"] + result["attacked"]["n_wrong"] + result["n_tracebacks"]
    well = result["alive"] and result["exact"] and not wrong and not result["peer"]["leaks"]
    return {
        **result,
        "p99_ratio": ratio,
        "p99_ratio_neighbour": _p99_ratio(result, "neighbour"),
        "met": bool(well and ratio is not None and ratio <= 2),
    }


def _p99_ratio(result: dict[str, Any], below: str) -> float | None:
    """Returns p99 of attacked over that of `below`, or None where one of them is a miss."""
    attacked = result["attacked"]["p99"]
    other = result[below]["p99"]
    return attacked / other if attacked and other else None


def _take_turns(
    robot: Robot, peers: dict[str, Process], attack: Attack
) -> tuple[dict[str, list[Segment]], dict[str, Any]]:
    """Returns the robot's segments, alone and beside each peer, and what the first peer saw."""
    robot.drive(lambda ns: ns < WARMUP_S * 1e9)
    segments: dict[str, list[Segment]] = {name: [] for name in ("alone", *peers)}
    reports = []
    sizes = np.diff(np.linspace(0, attack.n, attack.n_segments + 1).astype(int))
    for i, n in enumerate(sizes):
        request = {"n": int(n), "rate_hz": attack.rate_hz, "seed": i}
        for name, peer in peers.items():
            segment, report = _beside(robot, peer, request)
            segments[name].append(segment)
            reports.append(report)
        n_ticks = len(segments["attacked"][-1].latencies_us)
        segments["alone"].append(robot.drive(_ticks(n_ticks - 1)))
        latest = {name: pooled(part[-1:])["p99"] or np.inf for name, part in segments.items()}
        p99 = ", ".join(f"{name} {value:.0f}" for name, value in latest.items())
        print(f"hostile: {i + 1} of {len(sizes)}, p99 [us]: {p99}", flush=True)
    return segments, summed(reports[:: len(peers)])


def _beside(robot: Robot, peer: Process, request: dict[str, Any]) -> tuple[Segment, dict[str, Any]]:
    """Returns what the robot saw while a peer attacked, and what the peer saw."""
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(lambda: peer.ask(WAIT_S, **request))
        return robot.drive(lambda _: not report.done()), report.result()


def _ticks(n: int) -> Callable[[int], bool]:
    """Returns a condition that holds `n` times."""
    left = iter(range(n))
    return lambda _: next(left, None) is not None


def summed(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sums of the peer's reports: counts, answers by status, and the leaks."""
    answers: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for report in reports:
        answers.update(report["answers"])
        numbers = {name: n for name, n in report.items() if isinstance(n, int | float)}
        counts.update(numbers)
    leaks = [report["leak"] for report in reports if report["leak"]]
    return {**counts, "answers": dict(answers), "leaks": leaks}
