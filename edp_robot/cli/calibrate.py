"""`edp calibrate latency | quant`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from edp_robot.cli.writing import write_each
from policy_server.contract.disk.files import write_json
from policy_server.contract.disk.outputs import OutFile
from policy_server.contract.signals import stop_on_signals


def latency(
    robot: str = "sim:arm",
    seconds: float = 10.0,
    hz: float = 50.0,
    seed: int = 0,
    out: OutFile | None = None,
    json: OutFile | None = None,
) -> int:
    """Measure the delay between command and motion. The robot moves a little.

    Example: edp calibrate latency --robot 'sim:arm?delay_s=0.03' --out calibration.json

    Args:
        robot: Robot to measure, as KIND:REST; `edp plugins` lists the kinds. sim:arm?delay_s=0.03
            simulates a known delay.
        seconds: Length of the motion [s].
        hz: Rate of commands and readings [Hz].
        seed: Seeds the motion.
        out: calibration.json to put the section `latency` into. Its other sections stay.
        json: File to write the section alone to.
    """
    from calibration import file
    from calibration.motion.robot_delay import measure, robot_name
    from policy_server.control.robot import make_robot

    device = make_robot(robot)
    name = robot_name(device)
    if out:
        file.sections_of(out, name)  # another robot's file is refused before anything moves
    # Until the files are written: a signal must not end the process before.
    with stop_on_signals(breaks=False) as stop:
        result = measure(device, seconds, hz, seed, stop=stop)
        print(report(result))
        section = result.section()
        write_each(lambda: write_json(json, section), lambda: _update(out, name, section))
    return 0


def _update(out: Path | None, robot: str, section: dict[str, Any]) -> None:
    """Puts the section `latency` into a calibration.json, if one is given."""
    from calibration import file

    if out:
        sha256 = file.update(out, robot, "latency", section)
        print(f"wrote section 'latency' of {out} (sha256 {sha256[:12]}...)")


def quant(
    bundle: Positional[Path],
    data: Path | None = None,
    episodes: int = 200,
    precisions: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8"),
    force: bool = False,
    seed: int = 0,
    json: OutFile | None = None,
) -> int:
    """Make FP16 and INT8 versions of a policy, measure them, and add the good ones to its bundle.

    The scales come from observations that the policy meets: in its own simulated task, or in
    --data. A version that loses more than 2 % of the return is refused, and the exit status is 1.
    Example: edp calibrate quant runs/demo/bundle --json quant.json

    Args:
        bundle: Folder of the policy bundle. All that is in it stays as it is.
        data: File (.npz) with obs (n, obs_dim) of a robot, as `edp control --record` writes it.
        episodes: Episodes to measure the return over, rounded up to a multiple of 20.
        precisions: Versions to make.
        force: Keep a version that loses too much, and mark it.
        seed: Seeds start states and noise.
        json: File to write all measurements to.
    """
    from calibration.precision import versions, visited
    from policy_server.bench.host import host
    from policy_server.contract.bundle import Bundle, check_extendable
    from policy_server.runtime.base import load_backend

    versions.check_request(episodes, precisions)
    source = Bundle.load(bundle)
    check_extendable(source)
    versions.check_memory(source.manifest)
    policy = load_backend(source, "cpu")
    policy.self_test()
    simulated = visited.is_simulated(source.manifest)
    rows = visited.collect(policy, source.manifest, simulated, data, seed)
    made = versions.measure(source, simulated, rows, precisions, episodes, seed)
    print("\n".join(versions.table(source.manifest.shown_name, rows, made)))
    print("\n".join(versions.verdict(version, force) for version in made[1:]))
    versions.keep(source, made, force)
    result = versions.summary_of(source.manifest, rows, made, force)
    write_json(json, {**result, "seed": seed, "host": host()})
    return int(bool(result["refused"]))


def report(result: Any) -> str:
    """Returns a `LatencyResult` as a table."""
    lines = [f"{'joint':<16}{'delay [ms]':>28}{'lag [ms]':>28}{'corr':>7}{'fit':>7}"]
    for joint, estimate in result.joints.items():
        fit = f"{estimate.correlation:>7.2f}{estimate.explained:>7.2f}"
        lines.append(f"{joint:<16}{_delay_and_lag(estimate)}{fit}")
    lines.append(f"{'robot':<16}{_delay_and_lag(result)}")
    lines.append("delay: transport alone; lag: transport and response. 95 % intervals of noise;")
    ticks = f"{result.n_ticks} ticks of {result.period_s * 1e3:g} ms, {result.n_late_ticks} late"
    lines.append(f"{result.n_used} joints, {ticks}.")
    return "\n".join(lines + [f"warning: {text}" for text in result.warnings])


def _delay_and_lag(estimate: Any) -> str:
    """Returns two columns like '30.1 [29.0, 31.2]' in milliseconds."""
    delay = (estimate.delay_s, estimate.delay_low_s, estimate.delay_high_s)
    lag = (estimate.lag_s, estimate.lag_low_s, estimate.lag_high_s)
    columns = []
    for value, low, high in (delay, lag):
        columns.append(f"{value * 1e3:.1f} [{low * 1e3:.1f}, {high * 1e3:.1f}]")
    return "".join(f"{column:>28}" for column in columns)
