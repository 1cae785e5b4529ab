"""dm_control's models, and what sensors measure on them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
from mujoco import rollout

from sim.core import readings
from sim.core.batch import allowed_threads
from sim.tasks.mujoco_task import FULL_STATE

BODY = mujoco.mjtObj.mjOBJ_XBODY
JOINT = mujoco.mjtObj.mjOBJ_JOINT
SENSOR = mujoco.mjtSensor


def suite_model(name: str) -> mujoco.MjSpec:
    """Returns a model of the DeepMind Control Suite, by the name of its file.

    Raises:
        ImportError: dm_control is not installed.
    """
    return dm_control_model(f"suite/{name}.xml")


def dm_control_model(path: str) -> mujoco.MjSpec:
    """Returns a model of dm_control, by its file's path in that package.

    Only the installed file is read; dm_control is not imported.

    Raises:
        ImportError: dm_control is not installed.
    """
    found = find_spec("dm_control")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the model {path!r} is one of dm_control, which is not installed: "
            "pip install 'edp-robot[urlb]'",
            name="dm_control",
        )
    return mujoco.MjSpec.from_file(str(Path(found.submodule_search_locations[0]) / path))


def measure(spec: mujoco.MjSpec, kind: mujoco.mjtSensor, of: mujoco.mjtObj, *names: str) -> None:
    """Adds a sensor called `<kind>.<name>` for each name, like `jointvel.right_knee`.

    Args:
        spec: The world, changed in place.
        kind: What is measured.
        of: Kind of the things.
        names: Their names.
    """
    for name in names:
        label = f"{kind.name.removeprefix('mjSENS_').lower()}.{name}"
        spec.add_sensor(name=label, type=kind, objtype=of, objname=name)


def measure_contacts(spec: mujoco.MjSpec, *bodies: str) -> None:
    """Adds a sensor `contact.<body>` for each body: how many contacts it has with anything."""
    for name in bodies:
        spec.add_sensor(
            name=f"contact.{name}",
            type=SENSOR.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=name,
            intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1],
        )


class Measured:
    """Readings (n, n_readings), by the sensors' names.

    Args:
        model: The compiled world.
        rows: Readings.
        command: The commands (n, nu) that led to them. None: unknown.

    Attributes:
        rows: As given.
    """

    def __init__(
        self, model: mujoco.MjModel, rows: np.ndarray, command: np.ndarray | None = None
    ) -> None:
        self.rows = rows
        self._model = model
        self._command = command

    def __call__(self, *names: str) -> np.ndarray:
        """Returns what the sensors `names` measure, one after the other (n, numbers)."""
        places = [sensor_slice(self._model, name) for name in names]
        return np.concatenate([self.rows[:, place] for place in places], axis=1)

    @property
    def activation(self) -> np.ndarray:
        """Activations of actuators (n, na)."""
        return self.rows[:, self._model.nsensordata :]

    @property
    def command(self) -> np.ndarray:
        """The commands (n, nu).

        Raises:
            ValueError: They are unknown.
        """
        if self._command is None:
            raise ValueError("the obs does not tell the command; give the task Paid(.., 'command')")
        return self._command


@cache
def sensor_slice(model: mujoco.MjModel, sensor: str) -> slice:
    """Returns where the numbers of a sensor stand in a reading."""
    found = model.sensor(sensor)
    return slice(int(found.adr[0]), int(found.adr[0] + found.dim[0]))


class Readings:
    """Measures states: what sensors of position and velocity read in them.

    Args:
        model: The compiled world.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        n_threads = allowed_threads()
        self._model = readings.without_contacts(model)
        self._datas = [mujoco.MjData(model) for _ in range(n_threads)]
        self._rollout = rollout.Rollout(nthread=n_threads if n_threads > 1 else 0)

    def __call__(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Returns the readings (n, n_readings) of positions (n, nq) and velocities (n, nv)."""
        model = self._model
        state = np.zeros((len(qpos), mujoco.mj_stateSize(model, FULL_STATE)))
        state[:, 1 : 1 + model.nq] = qpos
        state[:, 1 + model.nq : 1 + model.nq + model.nv] = qvel
        control = np.zeros((len(qpos), 1, model.nu))
        data = self._datas if len(self._datas) > 1 else self._datas[0]
        _, sensor = self._rollout.rollout(model, data, state, control)
        return readings.readings(model, state, np.asarray(sensor)[:, 0])
