"""Part `hostile`: a robot alone, and beside a peer that sends bad frames, to its server or to another one, in turns."""

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
from policy_server.control.clock import quiet
from policy_server.control.local import LocalPolicy
from soaking.good import Robot, Segment, pooled
from soaking.serving import Served, serving

WARMUP_S = 1.0
WAIT_S = 600.0


class Attack(NamedTuple):
    """How the robot is attacked.

    Attributes:
        n: Bad frames in all.
        rate_hz: Of them [1/s]; 0 as fast as the peer can.
        n_segments: In how many parts; after each, the robot is alone for as long.
        niceness: Of the peer's process: 0 takes the CPU like the robot, 19 leaves it to others, as a peer elsewhere.
    """

    n: int
    rate_hz: float
    n_segments: int
    niceness: int = 0


def run(
    bundle: Bundle, folder: Path, attack: Attack, robot_hz: float, deadline_s: float
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns (result, arrays): latencies alone_us, attacked_us, neighbour_us, infinite where a deadline was missed.

    neighbour_us are beside the same attack on another server: what the attack costs where it only takes the CPU.
    """
    local = LocalPolicy(bundle.path, "cpu")
    with (
        serving(bundle.path, folder) as server,
        serving(bundle.path, folder, log="other.log") as other,
        _peer(server, bundle, folder, attack.niceness) as peer,
        _peer(other, bundle, folder, attack.niceness) as other_peer,
        contextlib.closing(
            Robot(server.endpoint, local, bundle.golden()["obs"], robot_hz, deadline_s)
        ) as robot,
    ):
        rss_mib = server.rss_mib()
        with quiet():
            segments, seen = _take_turns(robot, {"attacked": peer, "neighbour": other_peer}, attack)
        ending = {
            "alive": server.alive,
            "exact": robot.exact(),
            "rss_mib": [rss_mib, server.rss_mib()],
            "n_files": server.n_files(),
            "n_tracebacks": server.log.read_text().count("Traceback"),
        }
    found = {name: pooled(part) for name, part in segments.items()}
    arrays = {
        f"{name}_us": np.concatenate([s.latencies_us for s in part])
        for name, part in segments.items()
    }
    return judged({**found, "peer": seen, **attack._asdict(), **ending}), arrays


@contextlib.contextmanager
def _peer(server: Served, bundle: Bundle, folder: Path, niceness: int) -> Iterator[Process]:
    """Yields a hostile peer of this server."""
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

    p99_ratio is that of attacked to alone, p99_ratio_neighbour to the same attack on another server; `met`: no crash,
    no wrong answer, no leak, and p99 at most twice that of the robot alone.
    """
    p99 = [result[name]["p99"] for name in ("attacked", "alone")]
    ratio, beside = (
        p99[0] / below if p99[0] and below else None
        for below in (p99[1], result["neighbour"]["p99"])
    )
    wrong = result["alone"]["n_wrong"] + result["attacked"]["n_wrong"] + result["n_tracebacks"]
    well = result["alive"] and result["exact"] and not wrong and not result["peer"]["leaks"]
    return {
        **result,
        "p99_ratio": ratio,
        "p99_ratio_neighbour": beside,
        "met": bool(well and ratio is not None and ratio <= 2),
    }


def _take_turns(
    robot: Robot, peers: dict[str, Process], attack: Attack
) -> tuple[dict[str, list[Segment]], dict[str, Any]]:
    """Returns the robot's segments, alone and beside each of the peers, and what the first peer saw."""
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
        segments["alone"].append(
            robot.drive(_ticks(len(segments["attacked"][-1].latencies_us) - 1))
        )
        p99 = ", ".join(
            f"{name} {pooled(part[-1:])['p99'] or np.inf:.0f}" for name, part in segments.items()
        )
        print(f"hostile: {i + 1} of {len(sizes)}, p99 [us]: {p99}", flush=True)
    return segments, summed(reports[:: len(peers)])


def _beside(robot: Robot, peer: Process, request: dict[str, Any]) -> tuple[Segment, dict[str, Any]]:
    """Returns what the robot saw while a peer did its worst, and what the peer saw."""
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(lambda: peer.ask(WAIT_S, **request))
        return robot.drive(lambda _: not report.done()), report.result()


def _ticks(n: int) -> Callable[[int], bool]:
    """Returns a condition that holds `n` times."""
    left = iter(range(n))
    return lambda _: next(left, None) is not None


def summed(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the sums of the peer's reports: counts, answers by status, and the leaks it saw."""
    answers, counts = Counter(), Counter()
    for report in reports:
        answers.update(report["answers"])
        counts.update(
            {name: value for name, value in report.items() if isinstance(value, int | float)}
        )
    leaks = [report["leak"] for report in reports if report["leak"]]
    return {**counts, "answers": dict(answers), "leaks": leaks}
