"""Measures how late a robot's joints follow their commands.

`measure` wiggles the joints around where they are, a little and smoothly, on absolute deadlines, and hands
what it recorded to `calibration.motion.delay`. Two figures come back: `delay_s`, the pure transport delay, and
`lag_s`, transport and actuator response together; nothing is subtracted by guess. The instants are those
of this process: a reading counts at the middle of `get_observation`, a command when `send_action` is
called, so what the robot's own driver needs is part of the delay, the reading's age as well.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.motion.delay import (
    T_QUANTILE,
    WEAK_CORRELATION,
    WEAK_FIT,
    DelayEstimate,
    estimate_delay,
)
from calibration.motion.excitation import smooth_motion
from policy_server.control.robot import KnowsConnection, Robot

__all__ = ["DelayEstimate", "LatencyResult", "Recording", "estimate_delay", "measure", "summarise"]

MIN_SECONDS = 4.0
AMPLITUDE = 0.1  # of the action's own unit; for our arm [rad]
SPIN_NS = 300_000
MAX_LATE_SHARE = 0.02


@dataclass(frozen=True)
class Recording:
    """One run: `command` and `measured` (n, n_joints) at ticks `period_s` apart.

    Attributes:
        joints: names of the columns.
        reading_to_command_s: mean time from the instant of a reading to that of its tick's command [s].
        n_late: ticks that came more than a quarter period late.
        worst_late_s: the latest of them [s].
    """

    joints: tuple[str, ...]
    command: np.ndarray
    measured: np.ndarray
    period_s: float
    reading_to_command_s: float
    n_late: int
    worst_late_s: float


@dataclass(frozen=True)
class LatencyResult:
    """The robot's delay and lag [s], each with a 95 % interval, and what every joint said.

    Attributes:
        joints: estimate of each joint that moved; those with warnings do not count in the figures above.
        n_used: joints that count.
        n_ticks: length of the recording.
    """

    delay_s: float
    delay_low_s: float
    delay_high_s: float
    lag_s: float
    lag_low_s: float
    lag_high_s: float
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
    wait_until: Callable[[int, int], int] | None = None,
    now_ns: Callable[[], int] = time.monotonic_ns,
) -> LatencyResult:
    """Returns delay and lag of `robot`, measured by moving its joints for `seconds`.

    The joints move by at most `amplitude` around where they are; make room for that. The robot is connected
    if it is not yet, sent back to where it was, and disconnected again if it was connected here.

    Args:
        robot: anything with LeRobot's names; the joint `x` is read as `x.pos` and driven as `x.target` or `x.pos`.
        seconds: length of the motion [s].
        hz: tick rate.
        seed: of the motion.
        amplitude: largest offset, in the action's unit.
        joints: which to move; all that can be read and driven if None.
        max_delay_s: longest lag to look for [s].
        wait_until: sleeps to a deadline, `policy_server.control.loop.wait_until` if None.
        now_ns: the clock that deadlines are on.

    Raises:
        CalibrationError: too short, no such joint, or no joint gave a usable answer.
    """
    if not (seconds >= MIN_SECONDS and hz > 0 and amplitude > 0):
        raise CalibrationError(
            f"got seconds={seconds}, hz={hz}, amplitude={amplitude}; expected seconds of {MIN_SECONDS} or more, "
            "the others positive"
        )
    if wait_until is None:
        from policy_server.control.loop import wait_until
    names = _joints(robot, joints)
    motion = smooth_motion(
        round(seconds * hz), len(names), 1 / hz, amplitude, np.random.default_rng(seed)
    )
    motion[:, [joint not in (joints or names) for joint in names]] = (
        0.0  # held: some robots want every target
    )
    ours = not (isinstance(robot, KnowsConnection) and robot.is_connected)
    if ours:
        robot.connect()
    try:
        recording = _record(robot, names, motion, 1 / hz, wait_until, now_ns)
    finally:
        if ours:
            robot.disconnect()
    return summarise(recording, max_delay_s)


def _joints(robot: Robot, wanted: tuple[str, ...] | None) -> dict[str, str]:
    """Returns the action name of each joint that can be read and driven, by joint name; all of `wanted` are there."""
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
            f"cannot move {missing or 'any joint'}: a joint x needs the observation x.pos and the action x.target or "
            f"x.pos; the robot has the joints {sorted(names)}, observations {sorted(robot.observation_features)}, "
            f"actions {sorted(robot.action_features)}"
        )
    return names


def _record(
    robot: Robot,
    names: dict[str, str],
    motion: np.ndarray,
    period_s: float,
    wait_until: Callable[[int, int], int],
    now_ns: Callable[[], int],
) -> Recording:
    """Moves the joints by `motion` (n, n_joints) around where they are and returns what was read meanwhile."""
    start = robot.get_observation()
    rest = np.array([float(start[f"{joint}.pos"]) for joint in names])
    command = rest + motion
    measured, gap_ns, late_ns = (
        np.empty_like(command),
        np.empty(len(command)),
        np.empty(len(command)),
    )
    first_ns = now_ns() + 20_000_000
    try:
        for k, row in enumerate(command):
            deadline_ns = first_ns + round(k * period_s * 1e9)
            before_ns = wait_until(deadline_ns, SPIN_NS)
            reading = robot.get_observation()
            middle_ns = (before_ns + now_ns()) / 2
            measured[k] = [reading[f"{joint}.pos"] for joint in names]
            gap_ns[k], late_ns[k] = now_ns() - middle_ns, before_ns - deadline_ns
            robot.send_action(dict(zip(names.values(), row.tolist(), strict=True)))
    finally:
        with contextlib.suppress(Exception):  # what stopped the motion matters more
            robot.send_action(dict(zip(names.values(), rest.tolist(), strict=True)))
    n_late = int(np.sum(late_ns > period_s * 1e9 / 4))
    moved = np.abs(motion).max(axis=0) > 0
    joints = tuple(joint for joint, moves in zip(names, moved, strict=True) if moves)
    return Recording(
        joints,
        command[:, moved],
        measured[:, moved],
        period_s,
        float(gap_ns.mean() * 1e-9),
        n_late,
        float(late_ns.max() * 1e-9),
    )


def summarise(recording: Recording, max_delay_s: float = 0.4) -> LatencyResult:
    """Returns the delay that the joints of a recording agree on: means weighted by their intervals.

    Where joints differ by more than their intervals, the interval of the mean is widened to match.

    Raises:
        CalibrationError: no joint gave a usable answer; the message says why for each.
    """
    estimates, warnings = {}, []
    for k, joint in enumerate(recording.joints):
        try:
            estimates[joint] = estimate_delay(
                recording.command[:, k], recording.measured[:, k], recording.period_s, max_delay_s
            )
        except CalibrationError as error:
            warnings.append(f"{joint}: {error}")
            continue
        warnings += [f"{joint}: {text}" for text in estimates[joint].warnings]
    used = [
        e
        for e in estimates.values()
        if e.correlation >= WEAK_CORRELATION and e.explained >= WEAK_FIT
    ]
    if not used:
        raise CalibrationError(
            "no joint followed its command well enough to measure: " + "; ".join(warnings)
        )
    if recording.n_late > MAX_LATE_SHARE * len(recording.command):
        warnings.append(
            f"{recording.n_late} of {len(recording.command)} ticks came late (worst "
            f"{recording.worst_late_s * 1e3:.1f} ms): measure again on a quieter machine"
        )
    shift = recording.reading_to_command_s
    delay = _mean([(e.delay_s - shift, e.delay_high_s - e.delay_s) for e in used])
    lag = _mean([(e.lag_s - shift, (e.lag_high_s - e.lag_low_s) / 2) for e in used])
    return LatencyResult(
        delay[0],
        delay[0] - delay[1],
        delay[0] + delay[1],
        lag[0],
        lag[0] - lag[1],
        lag[0] + lag[1],
        period_s=recording.period_s,
        n_ticks=len(recording.command),
        n_used=len(used),
        n_late_ticks=recording.n_late,
        joints=estimates,
        warnings=tuple(warnings),
    )


def _mean(values: list[tuple[float, float]]) -> tuple[float, float]:
    """Returns the weighted mean of (value, half interval) and its half interval, widened where they disagree."""
    value, half = np.array(values).T
    half = np.maximum(half, 1e-5)  # a perfect fit does not count without end
    weight = half**-2.0
    mean = float(weight @ value / weight.sum())
    spread = 0.0
    if len(value) > 1:
        chi2 = float((((value - mean) / half * T_QUANTILE) ** 2).sum())
        spread = chi2 / (len(value) - 1)
    return mean, float(np.sqrt(max(1.0, spread) / weight.sum()))
