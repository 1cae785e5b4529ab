"""Versions of a policy in fewer bits: made, measured, and kept in the bundle unless they lose return.

Everything runs in ONNX Runtime on the CPU, float32 included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calibration.precision.half import to_fp16
from calibration.precision.int8 import METHOD, to_int8
from calibration.precision.judge import action_errors, closed_loop, compare, rounded_error
from calibration.precision.visited import Rows, Visited
from policy_server.bench.latency import bench_backend
from policy_server.bench.statistics import summary
from policy_server.contract.bundle import ONNX, Bundle, extend, graph_name
from policy_server.contract.choices import Precision
from policy_server.runtime.onnxruntime import OnnxPolicy
from sim.core.spec import TaskSpec

EXACT: Precision = "fp32"
MAX_LOSS = 0.02  # of the return
N_TIMED, N_TURNS = 1000, 10  # queries timed of each version, in so many turns


@dataclass(frozen=True)
class Version:
    """One precision of a policy, measured.

    Attributes:
        precision: fp32, fp16 or int8.
        graph: its ONNX graph.
        errors: of actions against float32; see `action_errors`.
        loop: see `compare`; None where nothing could be run.
        latency_us: summary of single queries on this machine's CPU [us].
        calibration: how it was made: method, n_rows, source.
    """

    precision: Precision
    graph: bytes
    errors: dict[str, Any]
    loop: dict[str, Any] | None
    latency_us: dict[str, Any]
    calibration: dict[str, Any]

    @property
    def return_loss(self) -> float | None:
        """Share of float32's return that it loses; negative where it gains, None where that is not known."""
        return self.loop["return_loss"] if self.loop else None

    @property
    def refused(self) -> bool:
        """Whether it loses more than MAX_LOSS."""
        return self.return_loss is not None and self.return_loss > MAX_LOSS

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, the graph as its size [bytes]."""
        rest = {key: value for key, value in asdict(self).items() if key != "graph"}
        return {
            **rest,
            "graph_bytes": len(self.graph),
            "return_loss": self.return_loss,
            "refused": self.refused,
        }

    def parity(self) -> dict[str, Any]:
        """Returns the bundle's entry on it."""
        keys = ("golden_max_abs_error", "max_abs_error", "mean_abs_error", "n")
        known = {
            "return_loss": self.return_loss,
            "forced": self.refused,
            "calibration": self.calibration,
        }
        return {**{key: self.errors[key] for key in keys}, **known}


def convert(precision: Precision, graph: bytes, visited: Visited) -> tuple[bytes, dict[str, Any]]:
    """Returns (graph, how it was made) of a precision, from the float32 graph."""
    if precision == EXACT:
        return graph, {}
    if precision == "fp16":
        return to_fp16(graph), {"method": "rounding", "n_rows": 0, "source": "none: needs no data"}
    rows = visited.calibration
    made = {"method": METHOD, "n_rows": len(rows.obs), "source": visited.source}
    return to_int8(graph, rows.obs, rows.noise), made


def measure(
    bundle: Bundle,
    spec: TaskSpec | None,
    visited: Visited,
    precisions: tuple[Precision, ...],
    n_episodes: int,
    seed: int,
) -> list[Version]:
    """Returns float32 and each of `precisions`, measured one after the other; nothing is written.

    Args:
        bundle: the policy.
        spec: its task in sim; None where there is none, and then no closed loop is run.
        visited: what to calibrate with, and what to judge actions by.
        precisions: fp16, int8.
        n_episodes: of the closed loop, rounded up to whole groups.
        seed: of starts and noise.

    Raises:
        CalibrationError: a graph cannot be converted, or answers NaN.
    """
    exact, rows, golden = bundle.read(ONNX), visited.held_out, bundle.golden()
    made: dict[Precision, Any] = {p: convert(p, exact, visited) for p in (EXACT, *precisions)}
    policies: dict[Precision, OnnxPolicy] = {
        p: OnnxPolicy(graph, "cpu") for p, (graph, _) in made.items()
    }
    expected = policies[EXACT].act(rows.obs, rows.noise)
    errors = {
        p: action_errors(p, policy, rows, expected, golden, bundle.manifest)
        for p, policy in policies.items()
    }
    if "fp16" in made:
        rounded = rounded_error(made["fp16"][0], golden)
        errors["fp16"]["golden_max_abs_error"] = max(
            errors["fp16"]["golden_max_abs_error"], rounded
        )
    loops = {}
    if spec is not None:
        runs = {
            p: closed_loop(policy, bundle.manifest, spec, n_episodes, seed)
            for p, policy in policies.items()
        }
        loops = {p: compare(runs[EXACT], run) for p, run in runs.items()}
    times = time_in_turns(policies, rows)
    return [
        Version(p, graph, errors[p], loops.get(p), summary(times[p]), how)
        for p, (graph, how) in made.items()
    ]


def time_in_turns(policies: Mapping[Precision, OnnxPolicy], rows: Rows) -> dict[Any, np.ndarray]:
    """Returns the times of N_TIMED single queries of each policy [us]; in turns, so that a busy spell hits them all."""
    obs, noise, times = rows.obs[:1], rows.noise[:1], {p: [] for p in policies}
    for _ in range(N_TURNS):
        for p, policy in policies.items():
            times[p].append(
                bench_backend(policy, obs, noise, N_TIMED // N_TURNS, N_TIMED // N_TURNS)
            )
    return {p: np.concatenate(parts) for p, parts in times.items()}


def keep(bundle: Bundle, versions: list[Version], force: bool) -> Bundle:
    """Returns the bundle with the versions that lose little, or with `force` all, written into it; fp32 is there."""
    kept = [v for v in versions if v.precision != EXACT and (force or not v.refused)]
    if not kept:
        return bundle
    files = {graph_name(v.precision): v.graph for v in kept}
    return extend(bundle, files, {v.precision: v.parity() for v in kept})


def table(name: str, visited: Visited, versions: list[Version]) -> list[str]:
    """Returns the lines of a table for people."""
    heads = (
        "",
        "max, mean error",
        "of range [%]",
        "golden",
        "return",
        "less fp32 [95 %]",
        "success",
    )
    rows = [(*heads, "p50 [us]", "p99 [us]", "size [kB]"), *map(_row, versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True))
        for row in rows
    ]
    n, n_others = len(visited.calibration.obs), len(visited.held_out.obs)
    return [
        f"{name}: scales from {n} rows of {visited.source}; action errors on {n_others} others",
        *lines,
    ]


def _row(version: Version) -> tuple[str, ...]:
    """Returns the texts of one line of the table."""
    e, loop, times = version.errors, version.loop, version.latency_us
    share = (
        "-"
        if e["max_share"] is None
        else f"{100 * e['max_share']:.2g}, {100 * e['mean_share']:.2g}"
    )
    earned = ("-", "-", "-")
    if loop:
        low, high = loop["return_difference_ci"]
        interval = f"{loop['return_difference']:+.2g} [{low:+.2g}, {high:+.2g}]"
        earned = (f"{loop['mean_return']:.4g}", interval, f"{loop['success']:.3f}")
    errors = (
        f"{e['max_abs_error']:.2g}, {e['mean_abs_error']:.2g}",
        share,
        f"{e['golden_max_abs_error']:.2g}",
    )
    speed = (f"{times['p50']:.1f}", f"{times['p99']:.1f}", f"{len(version.graph) / 1000:.0f}")
    return (version.precision, *errors, *earned, *speed)


def verdict(version: Version, force: bool) -> str:
    """Returns the line that says whether a version was kept, and why."""
    name, loop = version.precision, version.loop
    if loop is None or loop["return_loss"] is None:
        why = (
            "its task is not one of sim's"
            if loop is None
            else "float32 has neither return nor success"
        )
        return f"{name}: kept, but what it loses in closed loop is not known: {why}"
    loss, what = loop["return_loss"], loop["loss_of"]
    lost = f"it {'loses' if loss > 0 else 'gains'} {abs(loss):.2%} of the {what} in {loop['n_episodes']} episodes"
    if not version.refused:
        return f"{name}: kept; {lost} (limit {MAX_LOSS:.0%})"
    if force:
        return f"{name}: kept, by --force; {lost}, more than {MAX_LOSS:.0%}"
    return f"{name}: refused; {lost}, more than {MAX_LOSS:.0%}. --force keeps it"
