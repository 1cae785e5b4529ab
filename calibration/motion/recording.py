"""Moves a robot's joints on absolute deadlines and records what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policy_server.contract.clock import Clock, wait_until
from policy_server.contract.signals import Stop
from policy_server.control.lost import Lost, losing
from policy_server.control.robot import Robot
from policy_server.control.robot_io import numbers

SPIN_NS = 300_000
FIRST_TICK_NS = 20_000_000
MAX_SILENCE_S = 0.2  # longest time without a reading, or without a command that arrives


@dataclass(frozen=True)
class Recording:
    """One motion and what was read meanwhile, at ticks `period_s` apart.

    Attributes:
        joints: Names of the columns.
        command: (n, n_joints) commanded positions.
        measured: (n, n_joints) positions read.
        period_s: Time between ticks [s].
        reading_to_command_s: Mean time from a reading to the command of the same tick [s].
        n_late: Ticks that came more than a quarter period late.
        worst_late_s: Lateness of the worst tick [s].
        n_lost: Readings and commands that were lost. A lost reading is the line between its
            neighbours, a lost command is the one before.
    """

    joints: tuple[str, ...]
    command: np.ndarray
    measured: np.ndarray
    period_s: float
    reading_to_command_s: float
    n_late: int
    worst_late_s: float
    n_lost: int = 0


class Mover:
    """Moves the joints of a connected robot and records what they do.

    Attributes:
        recording: The recording. None before its end.

    Args:
        robot: The robot.
        names: Name of each joint's action.
        motion: (n, n_joints) offsets from where the robot is.
        period_s: Time between ticks [s].
        clock: Clock of the deadlines.
    """

    def __init__(
        self, robot: Robot, names: dict[str, str], motion: np.ndarray, period_s: float, clock: Clock
    ) -> None:
        self.recording: Recording | None = None
        self._robot = robot
        self._names = names
        self._motion = motion
        self._period_s = period_s
        self._clock = clock
        self._rest: np.ndarray | None = None
        self._n_lost = 0
        self._silent_since_ns: int | None = None

    def record(self, stop: Stop) -> None:
        """Moves and records, unless `stop` ends it early.

        Raises:
            Exception: What the robot raised for MAX_SILENCE_S, or a mistake in its driver.
        """
        now_ns = self._clock.now_ns
        rest = self._where_it_is()
        command = rest + self._motion
        measured = np.full_like(command, np.nan)
        gap_ns = np.empty(len(command))
        late_ns = np.empty(len(command))
        first_ns = now_ns() + FIRST_TICK_NS
        for k in range(len(command)):
            deadline_ns = first_ns + round(k * self._period_s * 1e9)
            before_ns = wait_until(deadline_ns, SPIN_NS, self._clock)
            if stop.is_set():
                return
            came = self._try(lambda row=measured[k]: self._read(row))
            middle_ns = (before_ns + now_ns()) / 2
            gap_ns[k] = now_ns() - middle_ns
            late_ns[k] = before_ns - deadline_ns
            went = self._try(lambda row=command[k]: self._send(row))
            if not went:
                command[k] = command[k - 1] if k else rest
            if came and went:
                self._silent_since_ns = None
        self.recording = self._recorded(command, measured, gap_ns, late_ns)

    def go_back(self) -> None:
        """Sends the joints to where they were. Raises Lost where that fails."""
        if self._rest is not None:
            self._send(self._rest)

    def _where_it_is(self) -> np.ndarray:
        """Returns the positions (n_joints,) before the motion."""
        rest = np.full(len(self._names), np.nan)
        while not self._try(lambda: self._read(rest)):
            self._clock.sleep(self._period_s)
        self._silent_since_ns = None
        self._rest = rest
        return rest

    def _try(self, call: Callable[[], None]) -> bool:
        """Returns whether nothing was lost in `call`. Raises what was, after MAX_SILENCE_S."""
        try:
            call()
        except Lost as error:
            self._n_lost += 1
            now_ns = self._clock.now_ns()
            if self._silent_since_ns is None:
                self._silent_since_ns = now_ns
            if now_ns - self._silent_since_ns >= MAX_SILENCE_S * 1e9:
                raise error.__cause__ or error from None
            return False
        return True

    def _read(self, out: np.ndarray) -> None:
        """Writes the positions into `out` (n_joints,). Raises Lost where the reading fails."""
        with losing("reading"):
            reading = self._robot.get_observation()
        values = numbers(reading, [f"{joint}.pos" for joint in self._names])
        if not np.isfinite(values).all():
            raise Lost(f"reading lost: {values} not finite")
        out[:] = values

    def _send(self, row: np.ndarray) -> None:
        """Sends a command (n_joints,). Raises Lost where that fails."""
        with losing("command"):
            self._robot.send_action(dict(zip(self._names.values(), row.tolist(), strict=True)))

    def _recorded(
        self, command: np.ndarray, measured: np.ndarray, gap_ns: np.ndarray, late_ns: np.ndarray
    ) -> Recording:
        """Returns the recording of the joints that were to move, without gaps."""
        moved = np.abs(self._motion).max(axis=0) > 0
        there = np.isfinite(measured[:, 0])
        ticks = np.arange(len(measured))
        whole = [np.interp(ticks, ticks[there], column[there]) for column in measured.T]
        return Recording(
            joints=tuple(joint for joint, moves in zip(self._names, moved, strict=True) if moves),
            command=command[:, moved],
            measured=np.stack(whole, axis=1)[:, moved],
            period_s=self._period_s,
            reading_to_command_s=float(gap_ns.mean() * 1e-9),
            n_late=int(np.sum(late_ns > self._period_s * 1e9 / 4)),
            worst_late_s=float(late_ns.max() * 1e-9),
            n_lost=self._n_lost,
        )
