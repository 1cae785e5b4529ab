"""What a task sees of a simulation: the MJCF's sensors, then the actuators' activations."""

from __future__ import annotations

import copy
from typing import Literal

import mujoco
import numpy as np

_SENSOR = mujoco.mjtSensor
_DISABLE = mujoco.mjtDisableBit
OF_CONSTRAINTS = {
    int(kind)
    for kind in (
        _SENSOR.mjSENS_JOINTLIMITPOS,
        _SENSOR.mjSENS_JOINTLIMITVEL,
        _SENSOR.mjSENS_TENDONLIMITPOS,
        _SENSOR.mjSENS_TENDONLIMITVEL,
        _SENSOR.mjSENS_PLUGIN,
        _SENSOR.mjSENS_USER,
    )
}
NO_CONSTRAINTS = int(
    _DISABLE.mjDSBL_CONTACT
    | _DISABLE.mjDSBL_EQUALITY
    | _DISABLE.mjDSBL_FRICTIONLOSS
    | _DISABLE.mjDSBL_LIMIT
)
LATE = (mujoco.mjtStage.mjSTAGE_POS, mujoco.mjtStage.mjSTAGE_VEL)


def n_readings(model: mujoco.MjModel) -> int:
    """Returns the length of a reading."""
    return model.nsensordata + model.na


def reading(data: mujoco.MjData) -> np.ndarray:
    """Returns the reading (n_readings,) of a simulation."""
    return np.concatenate([data.sensordata, data.act])


def readings(model: mujoco.MjModel, state: np.ndarray, sensor: np.ndarray) -> np.ndarray:
    """Returns readings (n, n_readings).

    Args:
        model: The compiled world.
        state: Full physics states (n, state).
        sensor: Sensor readings (n, n_sensordata).
    """
    if not model.na:
        return np.array(sensor)
    first = 1 + model.nq + model.nv  # after time, positions and velocities
    return np.concatenate([sensor, state[:, first : first + model.na]], axis=1)


def at_the_end(model: mujoco.MjModel, which: Literal[True, "all"]) -> np.ndarray:
    """Returns which numbers of sensordata are read at the end of a control step (n_sensordata,).

    True: those that follow from position and velocity.
    """
    return np.ones(model.nsensordata, bool) if which == "all" else of_the_state(model)


def without_contacts(model: mujoco.MjModel) -> mujoco.MjModel:
    """Returns the model for reading what follows from position and velocity, at least cost.

    A physics step of it finds no contacts and solves no constraints. Where a sensor may read these,
    it is `model` itself.
    """
    if set(model.sensor_type.tolist()) & OF_CONSTRAINTS:
        return model
    still = copy.copy(model)
    still.opt.disableflags |= NO_CONSTRAINTS
    return still


def of_the_state(model: mujoco.MjModel) -> np.ndarray:
    """Returns which numbers of sensordata follow from position and velocity (n_sensordata,) bool.

    The others, like forces and accelerations, follow from a physics step.
    """
    chosen = np.zeros(model.nsensordata, bool)
    for start, dim, stage in zip(
        model.sensor_adr, model.sensor_dim, model.sensor_needstage, strict=True
    ):
        chosen[start : start + dim] = stage in LATE
    return chosen
