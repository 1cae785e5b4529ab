"""What a task sees of a simulation: the MJCF's sensors, then the actuators' activations."""

from __future__ import annotations

from typing import Literal

import mujoco
import numpy as np

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
