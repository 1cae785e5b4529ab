"""`edp control` and `edp calibrate`: what needs a robot."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.cli.train import write_json


def make_robot(text: str) -> Any:
    """Returns the robot that `kind:rest` names, e.g. sim:arm-press; kinds are entry points of `edp_robot.robots`.

    Raises:
        ValueError: no such kind; the message lists those that are installed.
    """
    kind, _, rest = text.partition(":")
    kinds = {e.name: e for e in entry_points(group="edp_robot.robots")}
    if kind not in kinds:
        raise ValueError(
            f"no robot {text!r}; give KIND:NAME with KIND one of {sorted(kinds)}, e.g. sim:arm-press"
        )
    return kinds[kind].load()(rest)


def control(
    robot: str = "sim:arm-press",
    server: str | None = None,
    bundle: Path | None = None,
    hz: float | None = None,
    seconds: float = 20.0,
    episode_s: float | None = None,
    seed: int = 0,
    realtime: bool = False,
    json: Path | None = None,
    record: Path | None = None,
    keys: Path | None = None,
) -> int:
    """Drive a robot with a policy on absolute deadlines; give one of --server, --bundle.

    Every command passes the limiter; on silence the robot holds its last safe target.
    Example: edp control --server tcp://127.0.0.1:5599 --robot sim:arm-press --seconds 20

    Args:
        robot: KIND:NAME; sim:TASK runs MuJoCo in real time in a process of its own.
        server: Endpoint of a policy server.
        bundle: Bundle folder, run in this process instead.
        hz: Control rate; the policy's where not given.
        seconds: How long [s].
        episode_s: Start anew from another pose after this long [s].
        seed: Of poses and noise.
        realtime: Ask for SCHED_FIFO, and fail where it is refused.
        json: File to write the report to.
        record: File (.npz) for observations, targets and raw times.
        keys: A client's NAME.key_secret, or the folder with it and server.key, for a server with keys.
    """
    from policy_server.control.loop import ControlConfig, run

    with _policy(server, bundle, seed, keys) as policy:
        period_s = policy.manifest.control_period_s if hz is None else 1 / hz
        n_ticks, episode_ticks = (
            round(seconds / period_s),
            round(episode_s / period_s) if episode_s else None,
        )
        config = ControlConfig(
            n_ticks, period_s, episode_ticks=episode_ticks, seed=seed, realtime=realtime
        )
        rows: list[np.ndarray] = []
        keep = (
            (lambda tick, obs, target: rows.append(np.concatenate([obs, target])))
            if record
            else None
        )
        report = run(make_robot(robot), policy, config, keep)
        obs_dim, act_dim = policy.manifest.obs_dim, policy.manifest.act_dim
    show(report)
    if record:
        _save(record, np.array(rows).reshape(len(rows), obs_dim + act_dim), obs_dim, report)
    write_json(json, report.to_json())
    return 1 if report.error else 130 * report.interrupted


def _policy(server: str | None, bundle: Path | None, seed: int, keys: Path | None) -> Any:
    """Returns a `PolicyClient` or a `LocalPolicy`. Raises ValueError where not exactly one was asked for."""
    if (server is None) == (bundle is None):
        raise ValueError("give exactly one of --server ENDPOINT and --bundle FOLDER")
    from policy_server.control.client import PolicyClient
    from policy_server.control.local import LocalPolicy
    from policy_server.transport.keys import client_keys

    found_keys = client_keys(keys, has_server=server is not None)
    return PolicyClient(server, keys=found_keys) if server else LocalPolicy(str(bundle), seed=seed)


def _save(record: Path, seen: np.ndarray, obs_dim: int, report: Any) -> None:
    """Writes what was seen, (n_ticks, obs_dim + act_dim), and the raw times [ns]."""
    times = {k: getattr(report, k) for k in ("period_ns", "late_ns", "work_ns", "act_ns")}
    np.savez(record, obs=seen[:, :obs_dim], target=seen[:, obs_dim:], **times)


def show(report: Any) -> None:
    """Prints a control report."""
    said = report.to_json()
    jitter, act = said["period_jitter_us"], said["act_us"]
    print(
        f"{report.ticks} ticks, {report.missed_deadlines} missed deadlines, {report.n_holds} holds"
    )
    if report.ticks > 1:
        print(
            f"period jitter [us]: p50 {jitter['p50']:.1f}, p99 {jitter['p99']:.1f}, max {jitter['max']:.1f}"
        )
    if len(report.act_ns):
        print(f"policy answers [us]: p50 {act['p50']:.1f}, p99 {act['p99']:.1f}, n {act['n']}")
    if report.successes:
        print(f"success: {sum(report.successes)} of {len(report.successes)} episodes")
    if report.error:
        print(f"stopped: {report.error}")


def calibrate_latency(
    robot: str = "sim:arm",
    seconds: float = 10.0,
    hz: float = 50.0,
    seed: int = 0,
    out: Path | None = None,
    json: Path | None = None,
) -> int:
    """Measure the delay between command and motion; the robot moves a little.

    Example: edp calibrate latency --robot 'sim:arm?delay_s=0.03' --out calibration.json

    Args:
        robot: KIND:NAME; sim:arm?delay_s=0.03 injects a known delay.
        seconds: Length of the motion [s].
        hz: Rate of commands and readings.
        seed: Of the motion.
        out: calibration.json to put the result into.
        json: File to write the bare result to.
    """
    from edp_robot.cli import calibration_commands as commands

    return commands.latency(make_robot(robot), seconds, hz, seed, out, json)
