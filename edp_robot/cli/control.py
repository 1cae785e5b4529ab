"""`edp control`: drives a robot with a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edp_robot.cli.arguments import checked_hz, n_ticks
from edp_robot.cli.writing import write_each
from policy_server.contract.disk.files import replacing, write_json
from policy_server.contract.disk.outputs import OutFile
from policy_server.contract.signals import stop_on_signals


def control(
    robot: str = "sim:arm-press",
    server: str | None = None,
    bundle: Path | None = None,
    hz: float | None = None,
    seconds: float = 20.0,
    episode_s: float | None = None,
    seed: int = 0,
    realtime: bool = False,
    start_tolerance: float = 0.1,
    backend: str = "onnxruntime",
    json: OutFile | None = None,
    record: OutFile | None = None,
    keys: Path | None = None,
) -> int:
    """Drive a robot with a policy, at fixed times. Give either --server or --bundle.

    A limiter checks every command. The robot holds its last safe target while the policy is silent.
    Ctrl-C, SIGTERM and a closed terminal end the run after a whole tick: the robot is disconnected,
    and the files are written.
    Example: edp control --server tcp://127.0.0.1:5599 --robot sim:arm-press --seconds 20

    Args:
        robot: KIND:NAME?option=value or package.module:Class?option=value; `edp plugins` lists the
            kinds. sim:TASK runs MuJoCo in real time in its own process.
        server: Endpoint of a policy server.
        bundle: Folder of a bundle to run in this process.
        hz: Control rate [Hz]. Default: the policy's.
        seconds: Length of the run [s].
        episode_s: Length of an episode [s]. Each starts from another pose. Default: one episode.
        seed: Seeds poses and noise.
        realtime: Run under SCHED_FIFO, or fail where the system refuses it.
        start_tolerance: How far outside the policy's limits the robot may start, as a share of
            their range.
        backend: Runtime that computes a --bundle; `edp plugins` lists them.
        json: File to write the report to.
        record: File (.npz) for observations, targets and raw times.
        keys: This client's NAME.key_secret, or the folder that holds it and server.key.
    """
    from policy_server import make_robot

    device = make_robot(robot)
    with _policy(server, bundle, seed, backend, keys) as policy:
        options = {"seed": seed, "realtime": realtime, "start_tolerance": start_tolerance}
        config = _config(policy.manifest.control_period_s, hz, seconds, episode_s, options)
        report = _drive(device, policy, config, json, record)
    return 1 if report.error else 130 * report.interrupted


def _drive(device: Any, policy: Any, config: Any, json: Path | None, record: Path | None):
    """Returns the report of a run, which it prints and writes."""
    from policy_server import run

    seen = _Seen(policy.manifest.obs_dim, policy.manifest.act_dim)
    # Until the files are written: a signal must not end the process before.
    with stop_on_signals(breaks=False) as stop:
        report = run(device, policy, config, seen.add if record else None, stop=stop)
        show(report)
        write_each(lambda: seen.save(record, report), lambda: write_json(json, report.to_json()))
    return report


def _config(
    own_period_s: float,
    hz: float | None,
    seconds: float,
    episode_s: float | None,
    options: dict[str, Any],
):
    """Returns the configuration of a run. Raises ValueError for a number out of its range.

    Args:
        own_period_s: The policy's control period [s], where no rate is given.
        hz: Control rate [Hz].
        seconds: Length of the run [s].
        episode_s: Length of an episode [s].
        options: The other fields of the `ControlConfig`.
    """
    from policy_server import ControlConfig

    period_s = own_period_s if hz is None else 1 / checked_hz(hz)
    episode_ticks = None if episode_s is None else n_ticks("--episode-s", episode_s, period_s)
    ticks = n_ticks("--seconds", seconds, period_s)
    return ControlConfig(ticks, period_s, episode_ticks=episode_ticks, **options)


class _Seen:
    """Observations and targets of every tick."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        self.obs = [np.empty((0, obs_dim), np.float32)]
        self.target = [np.empty((0, act_dim), np.float32)]

    def add(self, tick: int, obs: np.ndarray, target: np.ndarray) -> None:
        """Keeps a copy of one tick's observation and target."""
        self.obs.append(obs[None].copy())
        self.target.append(target[None].copy())

    def save(self, path: Path | None, report: Any) -> None:
        """Writes obs (n_ticks, obs_dim), target (n_ticks, act_dim) and the raw times [ns].

        obs is NaN where the reading was lost. Does nothing where `path` is None.
        """
        if path is None:
            return
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                obs=np.concatenate(self.obs),
                target=np.concatenate(self.target),
                period_ns=report.period_ns,
                late_ns=report.late_ns,
                work_ns=report.work_ns,
                act_ns=report.act_ns,
            )


def _policy(server: str | None, bundle: Path | None, seed: int, backend: str, keys: Path | None):
    """Returns the policy. Raises ValueError unless exactly one of server and bundle is given."""
    from policy_server.control.client import PolicyClient
    from policy_server.control.local import LocalPolicy
    from policy_server.transport.keys import client_keys

    found_keys = client_keys(keys, has_server=server is not None)
    if server is not None and bundle is None:
        return PolicyClient(server, keys=found_keys)
    if bundle is not None and server is None:
        return LocalPolicy(bundle, seed=seed, backend=backend)
    raise ValueError("give exactly one of --server ENDPOINT and --bundle FOLDER")


def show(report: Any) -> None:
    """Prints a control report."""
    said = report.to_json()
    jitter = said["period_jitter_us"]
    act = said["act_us"]
    print(
        f"{report.ticks} ticks, {report.missed_deadlines} missed deadlines, {report.n_holds} holds"
    )
    if report.n_lost_reads or report.n_lost_writes:
        print(f"lost: {report.n_lost_reads} readings, {report.n_lost_writes} targets")
    if report.ticks > 1:
        p50, p99, worst = (f"{jitter[key]:.1f}" for key in ("p50", "p99", "max"))
        print(f"period jitter [us]: p50 {p50}, p99 {p99}, max {worst}")
    if len(report.act_ns):
        print(f"policy answers [us]: p50 {act['p50']:.1f}, p99 {act['p99']:.1f}, n {act['n']}")
    if report.successes:
        print(f"success: {sum(report.successes)} of {len(report.successes)} episodes")
    if report.error:
        print(f"stopped: {report.error}")
