"""Measures how late a robot's joints follow their commands.

`measure` moves the joints a little around where they are, smoothly and on absolute deadlines, and
hands the recording to `calibration.motion.delay`. The result has two figures: `delay_s`, the
transport delay alone, and `lag_s`, transport and actuator response together.

All times are those of this process. A reading counts at the middle of `get_observation`, a command
when `send_action` is called. So the time that the robot's driver needs and the age of its reading
are part of the delay.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from calibration.file import CalibrationError
from calibration.motion.delay import (
    T_QUANTILE,
    WEAK_CORRELATION,
    WEAK_FIT,
    DelayAndLag,
    DelayEstimate,
    estimate_delay,
    n_needed,
)
from calibration.motion.excitation import smooth_motion
from calibration.motion.recording import Mover, Recording
from policy_server.contract.clock import Clock
from policy_server.contract.noise import check_seed
from policy_server.contract.signals import Stop, stop_on_signals
from policy_server.control.robot import Robot
from policy_server.control.robot_use import RobotUse, use_robot

MIN_SECONDS = 4.0
AMPLITUDE = 0.1  # in the action's own unit; for our arm [rad]
MAX_LATE_SHARE = 0.02
MAX_TICKS = 200_000


@runtime_checkable
class Named(Protocol):
    """A robot that has a name, as LeRobot's have."""

    name: str


@dataclass(frozen=True)
class LatencyResult(DelayAndLag):
    """A robot's delay and lag, and the estimate of every joint.

    Attributes:
        period_s: Time between ticks [s].
        n_ticks: Length of the recording.
        n_used: Joints that count in delay and lag. Joints that hardly follow do not.
        n_late_ticks: Ticks that came more than a quarter period late.
        joints: Estimate of each joint that moved.
        warnings: What makes the numbers doubtful, in words.
    """

    period_s: float
    n_ticks: int
    n_used: int
    n_late_ticks: int
    joints: dict[str, DelayEstimate]
    warnings: tuple[str, ...]

    def section(self) -> dict[str, Any]:
        """Returns the `latency` section of `calibration.json`."""
        plain = asdict(self)
        for estimate in (plain, *plain["joints"].values()):
            estimate["warnings"] = list(estimate["warnings"])
        return plain


def measure(
    robot: Robot,
    seconds: float = 10.0,
    hz: float = 50.0,
    seed: int = 0,
    *,
    amplitude: float = AMPLITUDE,
    joints: tuple[str, ...] | None = None,
    max_delay_s: float = 0.4,
    clock: Clock | None = None,
    stop: Stop | None = None,
) -> LatencyResult:
    """Returns delay and lag of `robot`, measured by moving its joints.

    The joints move by at most `amplitude` around where they are, so make room for that. However it
    ends, the robot goes back to where it was. It is connected first and disconnected at the end,
    unless it is connected already.

    Args:
        robot: The robot. Joint `x` is read as `x.pos` and driven as `x.target` or `x.pos`.
        seconds: Length of the motion [s].
        hz: Tick rate [Hz].
        seed: Seeds the motion.
        amplitude: Largest offset, in the action's unit.
        joints: Joints to move. None: all that can be read and driven.
        max_delay_s: Longest lag to look for [s].
        clock: Clock of the deadlines. None: the monotonic clock.
        stop: What ends it early. None: SIGINT, SIGTERM, SIGHUP and SIGQUIT do.

    Raises:
        CalibrationError: The motion is too short, a joint is missing, no joint gave a usable
            answer, or more than one thing failed.
        KeyboardInterrupt: A signal ended it. The robot is back where it was.
    """
    _check_length(seconds, hz, amplitude, max_delay_s)
    names = _joints(robot, joints)
    rng = np.random.default_rng(check_seed(seed))
    motion = smooth_motion(round(seconds * hz), len(names), 1 / hz, amplitude, rng)
    still = [joint not in (joints or names) for joint in names]
    motion[:, still] = 0.0  # these are commanded too, since some robots want every target
    mover = Mover(robot, names, motion, 1 / hz, clock or Clock())
    with stop_on_signals(breaks=False) if stop is None else nullcontext(stop) as signals:
        use = use_robot(robot, lambda: mover.record(signals), mover.go_back, signals, True)
    if mover.recording is None:
        _raise_first(use)
    result = summarise(mover.recording, max_delay_s)
    return replace(result, warnings=(*result.warnings, *use.reasons()))


def _check_length(seconds: float, hz: float, amplitude: float, max_delay_s: float) -> None:
    """Raises CalibrationError for settings that no motion can have, before anything moves."""
    if not (MIN_SECONDS <= seconds < math.inf and 0 < hz < math.inf and 0 < amplitude < math.inf):
        raise CalibrationError(
            f"got seconds={seconds}, hz={hz}, amplitude={amplitude}; "
            f"expected seconds of {MIN_SECONDS} or more, and the others above 0"
        )
    n = seconds * hz
    if n > MAX_TICKS or n < n_needed(1 / hz, max_delay_s):
        least = min(n_needed(1 / hz, max_delay_s), MAX_TICKS)
        raise CalibrationError(
            f"seconds={seconds:g} at hz={hz:g} are {n:.3g} ticks: expected {least} to {MAX_TICKS}"
        )


def _raise_first(use: RobotUse) -> NoReturn:
    """Raises what kept a measurement from ending: its error, or all that failed in one."""
    reasons = use.reasons()
    if len(reasons) > 1 or (reasons and use.interrupted):
        raise CalibrationError("; ".join(["interrupted"] * use.interrupted + reasons))
    if reasons:
        raise use.failures[0][1]
    raise KeyboardInterrupt


def robot_name(robot: Robot) -> str:
    """Returns the robot's own name, or that of its class."""
    return robot.name if isinstance(robot, Named) else type(robot).__name__


def _joints(robot: Robot, wanted: tuple[str, ...] | None) -> dict[str, str]:
    """Returns the action's name of each joint that can be read and driven, by joint.

    Raises:
        CalibrationError: A wanted joint is missing, or there is none at all.
    """
    read = {
        name.removesuffix(".pos") for name in robot.observation_features if name.endswith(".pos")
    }
    names = {}
    for action in robot.action_features:
        stem, _, kind = action.rpartition(".")
        if kind in ("target", "pos") and stem in read:
            names[stem] = action
    missing = [joint for joint in wanted or () if joint not in names]
    if missing or not names:
        raise CalibrationError(
            f"cannot move {missing or 'any joint'}: a joint x needs the observation x.pos and the "
            f"action x.target or x.pos; the robot has the joints {sorted(names)}, observations "
            f"{sorted(robot.observation_features)}, actions {sorted(robot.action_features)}"
        )
    return names


def summarise(recording: Recording, max_delay_s: float = 0.4) -> LatencyResult:
    """Returns the delay that the joints of a recording agree on: means weighted by their intervals.

    Where joints differ by more than their intervals, the interval of the mean is widened to match.

    Raises:
        CalibrationError: No joint gave a usable answer; the message says why for each.
    """
    estimates, warnings = _estimates(recording, max_delay_s)
    used = [e for e in estimates.values() if _follows(e)]
    if not used:
        raise CalibrationError(
            "no joint followed its command well enough to measure: " + "; ".join(warnings)
        )
    n_ticks = len(recording.command)
    if recording.n_late > MAX_LATE_SHARE * n_ticks:
        warnings.append(
            f"{recording.n_late} of {n_ticks} ticks came late (worst "
            f"{recording.worst_late_s * 1e3:.1f} ms): measure again on a quieter machine"
        )
    if recording.n_lost:
        warnings.append(f"{recording.n_lost} readings or commands of {n_ticks} ticks were lost")
    shift_s = recording.reading_to_command_s
    delay_s, delay_half_s = _mean([(e.delay_s, e.delay_high_s - e.delay_s) for e in used])
    lag_s, lag_half_s = _mean([(e.lag_s, (e.lag_high_s - e.lag_low_s) / 2) for e in used])
    return LatencyResult(
        delay_s=delay_s - shift_s,
        delay_low_s=delay_s - shift_s - delay_half_s,
        delay_high_s=delay_s - shift_s + delay_half_s,
        lag_s=lag_s - shift_s,
        lag_low_s=lag_s - shift_s - lag_half_s,
        lag_high_s=lag_s - shift_s + lag_half_s,
        period_s=recording.period_s,
        n_ticks=n_ticks,
        n_used=len(used),
        n_late_ticks=recording.n_late,
        joints=estimates,
        warnings=tuple(warnings),
    )


def _follows(estimate: DelayEstimate) -> bool:
    """Returns whether a joint follows its command well enough to count."""
    return estimate.correlation >= WEAK_CORRELATION and estimate.explained >= WEAK_FIT


def _estimates(
    recording: Recording, max_delay_s: float
) -> tuple[dict[str, DelayEstimate], list[str]]:
    """Returns the estimates by joint, and warnings; an unusable joint has only a warning."""
    estimates: dict[str, DelayEstimate] = {}
    warnings: list[str] = []
    columns = zip(recording.joints, recording.command.T, recording.measured.T, strict=True)
    for joint, command, measured in columns:
        try:
            estimate = estimate_delay(command, measured, recording.period_s, max_delay_s)
        except CalibrationError as error:
            warnings.append(f"{joint}: {error}")
            continue
        estimates[joint] = estimate
        warnings += [f"{joint}: {text}" for text in estimate.warnings]
    return estimates, warnings


def _mean(values: list[tuple[float, float]]) -> tuple[float, float]:
    """Returns the weighted mean of (value, half interval), and half of its own interval.

    The interval is widened where the values disagree.
    """
    value, half = np.array(values).T
    half = np.maximum(half, 1e-5)  # bounds the weight of a perfect fit
    weight = half**-2.0
    mean = float(weight @ value / weight.sum())
    spread = 0.0
    if len(value) > 1:
        chi2 = float((((value - mean) / half * T_QUANTILE) ** 2).sum())
        spread = chi2 / (len(value) - 1)
    return mean, float(np.sqrt(max(1.0, spread) / weight.sum()))
