"""What `edp calibrate` runs, once the command line has made the robot or named the bundle."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Any

from calibration import file
from calibration.errors import CalibrationError
from calibration.motion.robot_delay import LatencyResult, Robot, measure
from policy_server.contract.bundle import Bundle, Precision

EXIT_REFUSED = 1


def latency(
    robot: Robot,
    seconds: float = 10.0,
    hz: float = 50.0,
    seed: int = 0,
    out: str | Path | None = None,
    json: str | Path | None = None,
    **kwargs: Any,
) -> int:
    """Measures the delay of `robot`, prints it, and returns the exit status (0, or 1 with the reason on stderr).

    Args:
        robot: with LeRobot's names; it moves.
        seconds: length of the motion [s].
        hz: tick rate.
        seed: of the motion.
        out: `calibration.json` to put the section `latency` into; its other sections stay.
        json: file for the bare result.
        kwargs: handed to `calibration.motion.robot_delay.measure`.
    """
    try:
        result = measure(robot, seconds, hz, seed, **kwargs)
        print(report(result))
        section = result.section()
        _write(json, section)
        if out:
            sha256 = file.update(out, robot_name(robot), "latency", section)
            print(f"wrote section 'latency' of {out} (sha256 {sha256[:12]}...)")
    except CalibrationError as error:
        print(f"latency was not measured: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def quant(
    path: str | Path,
    data: str | Path | None = None,
    episodes: int = 200,
    precisions: tuple[Precision, ...] = ("fp16", "int8"),
    force: bool = False,
    seed: int = 0,
    json: str | Path | None = None,
) -> int:
    """Makes versions of a bundle in fewer bits, prints what they lose, and puts those that lose little into it.

    Args:
        path: folder of the bundle; its own files stay as they are.
        data: .npz with obs (n, obs_dim); None to sample them in the bundle's simulated task.
        episodes: of the closed loop.
        precisions: fp16, int8.
        force: keep a version that loses more than MAX_LOSS too.
        seed: of starts and noise.
        json: file for everything that was measured.

    Returns:
        The exit status: 0, or 1 where a version was refused.

    Raises:
        CalibrationError: no data, or a graph that cannot be converted.
        BackendError, BundleError: the bundle is damaged or does not run here.
    """
    from calibration.precision import (  # they load sim, which a robot's computer may lack
        versions as precision,
    )
    from calibration.precision import visited
    from policy_server.bench import latency as bench
    from policy_server.runtime import base as backends

    if episodes < 1 or not precisions or "fp32" in precisions:
        raise CalibrationError(
            f"{episodes} episodes, precisions {precisions}: expected 1 or more, of fp16 and int8"
        )
    bundle = Bundle.load(path)
    backend, spec = backends.load(bundle, "cpu"), visited.simulated_task(bundle.manifest)
    backend.self_test()
    rows = visited.collect(backend, bundle.manifest, spec, Path(data) if data else None, seed)
    versions = precision.measure(bundle, spec, rows, precisions, episodes, seed)
    said = precision.table(bundle.manifest.name, rows, versions)
    print("\n".join([*said, *(precision.verdict(v, force) for v in versions[1:])]))
    precision.keep(bundle, versions, force)
    refused = [] if force else [v.precision for v in versions if v.refused]
    about = {
        "policy": bundle.manifest.name,
        "task": bundle.manifest.task,
        "source": rows.source,
        "seed": seed,
    }
    decided = {"max_loss": precision.MAX_LOSS, "force": force, "refused": refused}
    measured = {v.precision: v.to_json() for v in versions}
    _write(json, {**about, **decided, "versions": measured, "host": bench.host()})
    return EXIT_REFUSED if refused else 0


def robot_name(robot: Robot) -> str:
    """Returns the robot's own `name`, or that of its class."""
    return str(getattr(robot, "name", None) or type(robot).__name__)


def report(result: LatencyResult) -> str:
    """Returns the result as a table for people."""
    lines = [f"{'joint':<16}{'delay [ms]':>28}{'lag [ms]':>28}{'corr':>7}{'fit':>7}"]
    for joint, e in result.joints.items():
        lines.append(
            f"{joint:<16}{_interval(e.delay_s, e.delay_low_s, e.delay_high_s):>28}"
            f"{_interval(e.lag_s, e.lag_low_s, e.lag_high_s):>28}{e.correlation:>7.2f}{e.explained:>7.2f}"
        )
    delay = _interval(result.delay_s, result.delay_low_s, result.delay_high_s)
    lag = _interval(result.lag_s, result.lag_low_s, result.lag_high_s)
    lines.append(f"{'robot':<16}{delay:>28}{lag:>28}")
    lines.append(
        f"delay: transport alone; lag: transport and response. 95 % intervals of noise; {result.n_used} joints, "
        f"{result.n_ticks} ticks of {result.period_s * 1e3:g} ms, {result.n_late_ticks} late."
    )
    return "\n".join(lines + [f"warning: {text}" for text in result.warnings])


def _interval(value: float, low: float, high: float) -> str:
    """Returns '30.1 [29.0, 31.2]' from seconds."""
    return f"{value * 1e3:.1f} [{low * 1e3:.1f}, {high * 1e3:.1f}]"


def _write(path: str | Path | None, result: dict[str, Any]) -> None:
    """Writes a result for other programs; nothing where no file was asked for."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(
            json_module.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
