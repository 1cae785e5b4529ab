"""Makes versions of a policy in fewer bits, measures them, and keeps those that lose little return.

Everything runs in ONNX Runtime on the CPU, float32 included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calibration.file import CalibrationError
from calibration.precision.half import to_fp16
from calibration.precision.int8 import METHOD, to_int8
from calibration.precision.judge import action_errors, closed_loop, compare, rounded_errors
from calibration.precision.visited import Rows, Visited
from policy_server.bench.latency import bench_backend
from policy_server.bench.statistics import summary
from policy_server.contract.bundle import ONNX, Bundle, extend, graph_name
from policy_server.contract.choices import Precision
from policy_server.contract.clock import quiet
from policy_server.contract.manifest import Manifest
from policy_server.runtime.onnxruntime import OnnxPolicy

EXACT: Precision = "fp32"
MAX_LOSS = 0.02  # share of the return
N_TIMED = 1000  # queries timed of each version
N_TURNS = 10  # the versions take turns, so that a busy spell of the machine hits all of them
HEADS = (
    *("", "max, mean error", "of range [%]", "golden"),
    *("return", "less fp32 [95 %]", "success"),
    *("p50 [us]", "p99 [us]", "size [kB]"),
)


@dataclass(frozen=True)
class Version:
    """One precision of a policy, measured.

    Attributes:
        precision: fp32, fp16 or int8.
        graph: Its ONNX graph.
        errors: Difference of its actions from float32's; see `action_errors`.
        loop: What it earns beside float32; see `compare`. None: no simulated task.
        latency_us: Summary of single queries on this machine's CPU [us].
        calibration: How it was made: method, n_rows, source.
    """

    precision: Precision
    graph: bytes
    errors: dict[str, Any]
    loop: dict[str, Any] | None
    latency_us: dict[str, Any]
    calibration: dict[str, Any]

    @property
    def return_loss(self) -> float | None:
        """Share of float32's return that it loses; negative where it gains, None where unknown."""
        return self.loop["return_loss"] if self.loop else None

    @property
    def refused(self) -> bool:
        """Whether it loses more than MAX_LOSS."""
        return self.return_loss is not None and self.return_loss > MAX_LOSS

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, with the graph's size [bytes] in place of the graph."""
        plain = asdict(self)
        graph = plain.pop("graph")
        known = {"return_loss": self.return_loss, "refused": self.refused}
        return {**plain, "graph_bytes": len(graph), **known}

    def parity(self) -> dict[str, Any]:
        """Returns the version's entry in the bundle's manifest."""
        keys = ("golden_abs_errors", "max_abs_error", "mean_abs_error", "n")
        return {
            **{key: self.errors[key] for key in keys},
            "golden_max_abs_error": max(self.errors["golden_abs_errors"]),
            "return_loss": self.return_loss,
            "forced": self.refused,
            "calibration": self.calibration,
        }


def check_memory(manifest: Manifest) -> None:
    """Raises CalibrationError for a policy with memory: nothing here feeds its state back."""
    if manifest.state_dim:
        raise CalibrationError(
            f"{manifest.name} has memory (state_dim {manifest.state_dim}): versions in fewer "
            "bits of such a policy are not supported; serve it in fp32"
        )


def check_request(n_episodes: int, precisions: tuple[str, ...]) -> None:
    """Raises CalibrationError unless there are episodes and versions to make."""
    if n_episodes < 1 or not precisions or EXACT in precisions:
        raise CalibrationError(
            f"{n_episodes} episodes, precisions {precisions}: expected 1 or more, of fp16 and int8"
        )


def convert(precision: Precision, graph: bytes, visited: Visited) -> tuple[bytes, dict[str, Any]]:
    """Returns a version of the float32 graph, and how it was made.

    Args:
        precision: Version to make.
        graph: The float32 graph.
        visited: Observations that the policy meets.
    """
    if precision == EXACT:
        return graph, {}
    if precision == "fp16":
        return to_fp16(graph), {"method": "rounding", "n_rows": 0, "source": "none: needs no data"}
    rows = visited.calibration
    made = {"method": METHOD, "n_rows": len(rows.obs), "source": visited.source}
    return to_int8(graph, rows.obs, rows.noise), made


def measure(
    bundle: Bundle,
    simulated: bool,
    visited: Visited,
    precisions: tuple[Precision, ...],
    n_episodes: int,
    seed: int,
) -> list[Version]:
    """Returns float32 and each of `precisions`, measured. Writes nothing.

    Args:
        bundle: The policy.
        simulated: Whether `sim` can run its task. If not, no closed loop is run.
        visited: Rows to calibrate with, and rows to compare actions on.
        precisions: fp16, int8.
        n_episodes: Episodes of the closed loop, rounded up to whole groups.
        seed: Seeds start states and noise.

    Raises:
        CalibrationError: A graph cannot be converted, or answers NaN.
    """
    exact = bundle.read(ONNX)
    made: dict[Precision, Any] = {
        name: convert(name, exact, visited) for name in (EXACT, *precisions)
    }
    policies: dict[Precision, OnnxPolicy] = {
        name: OnnxPolicy(graph, "cpu") for name, (graph, _) in made.items()
    }
    errors = _errors(bundle, policies, visited.held_out)
    if "fp16" in made:
        rounded = rounded_errors(made["fp16"][0], bundle.golden())
        worst = np.maximum(rounded, errors["fp16"]["golden_abs_errors"])
        errors["fp16"]["golden_abs_errors"] = worst.tolist()
    loops = {}
    if simulated:
        for name, policy in policies.items():
            loops[name] = closed_loop(policy, bundle.manifest, n_episodes, seed)
    earned = {name: compare(loops[EXACT], loop) for name, loop in loops.items()}
    times = time_in_turns(policies, visited.held_out)
    return [
        Version(name, graph, errors[name], earned.get(name), summary(times[name]), how)
        for name, (graph, how) in made.items()
    ]


def _errors(
    bundle: Bundle, policies: Mapping[Precision, OnnxPolicy], rows: Rows
) -> dict[Precision, dict[str, Any]]:
    """Returns the action errors of each policy, on rows that set no scale and on golden vectors."""
    golden = bundle.golden()
    expected = policies[EXACT].act(rows.obs, rows.noise)
    return {
        name: action_errors(name, policy, rows, expected, golden, bundle.manifest)
        for name, policy in policies.items()
    }


def time_in_turns(policies: Mapping[Precision, OnnxPolicy], rows: Rows) -> dict[Any, np.ndarray]:
    """Returns the times of N_TIMED single queries of each policy [us], measured in turns."""
    obs = rows.obs[:1]
    noise = rows.noise[:1]
    n = N_TIMED // N_TURNS
    times: dict[Any, list[np.ndarray]] = {name: [] for name in policies}
    with quiet():
        for _ in range(N_TURNS):
            for name, policy in policies.items():
                times[name].append(bench_backend(policy, obs, noise, n, n))
    return {name: np.concatenate(parts) for name, parts in times.items()}


def keep(bundle: Bundle, versions: list[Version], force: bool) -> Bundle:
    """Returns the bundle with the good versions written into it.

    Args:
        bundle: The policy.
        versions: Measured versions; float32 is in the bundle already.
        force: Writes those that lose too much as well.
    """
    kept = [v for v in versions if v.precision != EXACT and (force or not v.refused)]
    if not kept:
        return bundle
    files = {graph_name(version.precision): version.graph for version in kept}
    return extend(bundle, files, {version.precision: version.parity() for version in kept})


def summary_of(
    manifest: Manifest, visited: Visited, versions: list[Version], force: bool
) -> dict[str, Any]:
    """Returns all measurements and what was decided, as JSON values.

    Args:
        manifest: The policy's manifest.
        visited: The rows that were used.
        versions: Measured versions, float32 first.
        force: Whether versions that lose too much are kept.
    """
    return {
        "policy": manifest.name,
        "task": manifest.task,
        "source": visited.source,
        "max_loss": MAX_LOSS,
        "force": force,
        "refused": [] if force else [v.precision for v in versions if v.refused],
        "versions": {version.precision: version.to_json() for version in versions},
    }


def table(name: str, visited: Visited, versions: list[Version]) -> list[str]:
    """Returns the lines of a table.

    Args:
        name: The policy's name.
        visited: The rows that were used.
        versions: Measured versions, float32 first.
    """
    rows = [HEADS, *map(_row, versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True))
        for row in rows
    ]
    n_rows = len(visited.calibration.obs)
    n_others = len(visited.held_out.obs)
    head = (
        f"{name}: scales from {n_rows} rows of {visited.source}; action errors on {n_others} others"
    )
    return [head, *lines]


def _row(version: Version) -> tuple[str, ...]:
    """Returns the cells of one line of the table."""
    errors = version.errors
    error = f"{errors['max_abs_error']:.2g}, {errors['mean_abs_error']:.2g}"
    share = "-"
    if errors["max_share"] is not None:
        share = f"{100 * errors['max_share']:.2g}, {100 * errors['mean_share']:.2g}"
    earned = ("-", "-", "-")
    if loop := version.loop:
        low, high = loop["return_difference_ci"]
        interval = f"{loop['return_difference']:+.2g} [{low:+.2g}, {high:+.2g}]"
        success = "-" if loop["success"] is None else f"{loop['success']:.3f}"
        earned = (f"{loop['mean_return']:.4g}", interval, success)
    times = version.latency_us
    speed = (f"{times['p50']:.1f}", f"{times['p99']:.1f}", f"{len(version.graph) / 1000:.0f}")
    golden = f"{max(errors['golden_abs_errors']):.2g}"
    return (version.precision, error, share, golden, *earned, *speed)


def verdict(version: Version, force: bool) -> str:
    """Returns the line that says whether a version is kept, and why."""
    name = version.precision
    loop = version.loop
    if loop is None:
        return f"{name}: kept; its loss in closed loop is not known: its task is not one of sim's"
    loss = loop["return_loss"]
    if loss is None:
        return f"{name}: kept; its loss is not known: float32 has neither return nor success"
    change = f"{'loses' if loss > 0 else 'gains'} {abs(loss):.2%} of the {loop['loss_of']}"
    lost = f"it {change} in {loop['n_episodes']} episodes"
    if not version.refused:
        return f"{name}: kept; {lost} (limit {MAX_LOSS:.0%})"
    if force:
        return f"{name}: kept, by --force; {lost}, more than {MAX_LOSS:.0%}"
    return f"{name}: refused; {lost}, more than {MAX_LOSS:.0%}. --force keeps it"
