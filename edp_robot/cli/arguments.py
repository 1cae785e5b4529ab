"""Types and ranges of options that several commands share."""

from typing import Literal

import tyro

FROM = tyro.conf.arg(
    name="from"
)  # `from` is a keyword in Python, so no parameter can have this name
SET = tyro.conf.arg(name="set")  # `set` is a builtin
Preset = Literal["smoke", "demo", "paper"]

HZ = (1 / 3600, 1e5)  # the slowest and the fastest control rate [Hz]
MAX_S = 1e9  # the longest run [s]: until a signal ends it


def checked_hz(hz: float, option: str = "--hz") -> float:
    """Returns a rate [Hz]. Raises ValueError where no control loop has such a rate."""
    least, most = HZ
    if not least <= hz <= most:
        raise ValueError(f"{option} {hz:g}: expected {least:.3g} to {most:g} Hz")
    return hz


def n_ticks(option: str, seconds: float, period_s: float) -> int:
    """Returns how many control periods a time has, rounded, at least one.

    Args:
        option: The option that gives the time, for the message.
        seconds: The time [s].
        period_s: The control period [s].

    Raises:
        ValueError: The time is no number above 0, longer than MAX_S, or shorter than half a period.
    """
    if not 0 < seconds <= MAX_S:
        raise ValueError(f"{option} {seconds:g}: expected a time above 0 and up to {MAX_S:g} s")
    ticks = round(seconds / period_s)
    if ticks < 1:
        raise ValueError(f"{option} {seconds:g}: shorter than the control period of {period_s:g} s")
    return ticks


def at_least_one(option: str, number: int) -> None:
    """Raises ValueError for a count below 1."""
    if number < 1:
        raise ValueError(f"{option} {number}: expected at least 1")
