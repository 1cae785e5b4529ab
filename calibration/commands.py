"""What `edp calibrate` runs, once the command line has made the robot."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Any

from calibration import file
from calibration.errors import CalibrationError
from calibration.latency import LatencyResult, Robot, measure

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
        kwargs: handed to `calibration.latency.measure`.
    """
    try:
        result = measure(robot, seconds, hz, seed, **kwargs)
        print(report(result))
        section = result.section()
        if json:
            Path(json).parent.mkdir(parents=True, exist_ok=True)
            Path(json).write_text(json_module.dumps(section, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if out:
            sha256 = file.update(out, robot_name(robot), "latency", section)
            print(f"wrote section 'latency' of {out} (sha256 {sha256[:12]}...)")
    except CalibrationError as error:
        print(f"latency was not measured: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


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
