"""Refuses a robot that starts far outside a policy's limits: its units are another's."""

import math
from typing import NamedTuple

import numpy as np

from policy_server.contract.field import Field
from policy_server.control.robot_io import RobotError

OBS_FACTOR = 10  # readings may be this many times as far outside their limits as positions
# Unit of a policy: what robots speak instead, and what one of that is in the policy's unit.
OTHERS = {"rad": ("degrees", math.pi / 180), "m": ("millimetres", 1e-3), "1": ("percent", 1e-2)}


class Place(NamedTuple):
    """One number of an obs or action.

    Attributes:
        name: The robot's name for it.
        unit: The policy's unit.
        low: The policy's lowest value [unit].
        high: The policy's highest value [unit].
    """

    name: str
    unit: str
    low: float
    high: float

    def outside(self, value: float) -> float:
        """Returns how far a value is outside the limits [unit]; 0 inside."""
        return max(self.low - value, value - self.high, 0.0)

    def scale(self) -> float:
        """Returns the length that a tolerance is a share of [unit]."""
        spread = self.high - self.low
        if 0 < spread < math.inf:
            return spread
        return max([1.0, *(abs(v) for v in (self.low, self.high) if math.isfinite(v))])


def check_start(
    vector: str, fields: tuple[Field, ...], names: list[str], values: np.ndarray, tolerance: float
) -> None:
    """Returns where all values are inside their limits, or near enough.

    Args:
        vector: What the values are: "position", "start_action" or "obs".
        fields: The policy's fields, with their limits.
        names: The robot's names for the numbers.
        values: (dim,) measured at the start.
        tolerance: How far outside a value may be, as a share of the range between its limits.
            Readings ("obs") may be OBS_FACTOR times as far outside.

    Raises:
        RobotError: A value is further outside (the message has it and its limits), or there are
            more or fewer values than names.
    """
    if values.shape != (len(names),):
        raise RobotError(
            f"the robot's {vector} has shape {values.shape}, expected a number for each of {names}"
        )
    bounds = [
        (field.unit, low, high)
        for field in fields
        for low, high in zip(field.low, field.high, strict=True)
    ]
    share = tolerance * (OBS_FACTOR if vector == "obs" else 1)
    far = []
    for name, (unit, low, high), value in zip(names, bounds, values.tolist(), strict=True):
        place = Place(name, unit, low, high)
        if place.outside(value) > share * place.scale():
            far.append(_in_words(place, value))
    if far:
        raise RobotError(
            f"the robot starts outside the policy's limits, so nothing was sent: {vector} "
            f"{'; '.join(far)}. Move the robot inside, convert units in its driver, or raise "
            f"start_tolerance (now {tolerance:g} of the range)"
        )


def _in_words(place: Place, value: float) -> str:
    unit = "" if place.unit == "1" else f" {place.unit}"
    said = f"{place.name} is {value:.6g}, expected {place.low:.6g} to {place.high:.6g}{unit}"
    other, factor = OTHERS.get(place.unit, ("", 0.0))
    fits = other and place.outside(value * factor) <= place.scale()
    return f"{said} (does the robot speak {other}?)" if fits else said
