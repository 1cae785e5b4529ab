"""Measures a robot, and a policy in fewer bits.

Each name loads when it is first used.

Names:
    Calibration: What is measured on one robot.
        `Calibration.load("calibration.json").section("latency")`.
    CalibrationError: A file, a signal, a robot or a graph cannot be used.
    measure: Moves a robot a little and returns its delay and lag, with intervals.
    LatencyResult: What `measure` returns.
    estimate_delay: Returns delay and lag of one recorded command and motion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policy_server.contract.doors.lazy import lazy_names

if TYPE_CHECKING:
    from calibration.file import Calibration, CalibrationError
    from calibration.motion.delay import estimate_delay
    from calibration.motion.robot_delay import LatencyResult, measure

__all__ = ["Calibration", "CalibrationError", "LatencyResult", "estimate_delay", "measure"]

__getattr__, __dir__ = lazy_names(__name__)
