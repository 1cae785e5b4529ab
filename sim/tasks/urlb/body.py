"""What the bodies of URLB share: dm_control's models, and rewards of what is measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
from mujoco import rollout

from sim.core import readings
from sim.core.batch import allowed_threads
from sim.tasks.mujoco_task import FULL_STATE, MujocoTask

Reward = Callable[["Measured"], np.ndarray]
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
        raise ImportError(
            f"the model {path!r} is one of dm_control, which is not installed: "
            "pip install 'edp-robot[urlb]'"
        )
    return mujoco.MjSpec.from_file(str(Path(found.submodule_search_locations[0]) / path))


def measure(spec: mujoco.MjSpec, kind: SENSOR, of: mujoco.mjtObj, *names: str) -> None:
    """Adds a sensor called `<kind>.<name>` for each name, like `jointvel.right_knee`."""
    for name in names:
        label = f"{kind.name.removeprefix('mjSENS_').lower()}.{name}"
        spec.add_sensor(name=label, type=kind, objtype=of, objname=name)


class Measured:
    """Readings (n, n_readings), by the sensors' names.

    Args:
        model: The compiled world.
        rows: Readings.
    """

    def __init__(self, model: mujoco.MjModel, rows: np.ndarray) -> None:
        self.model = model
        self.rows = rows

    def __call__(self, *names: str) -> np.ndarray:
        """Returns what the sensors `names` measure, one after the other (n, numbers)."""
        return np.concatenate([self.rows[:, self._place(name)] for name in names], axis=1)

    def _place(self, name: str) -> slice:
        sensor = self.model.sensor(name)
        return slice(int(sensor.adr[0]), int(sensor.adr[0] + sensor.dim[0]))


class Body(MujocoTask):
    """A body of URLB: a task without reward, or with one of its domain's rewards.

    Its sensors are read as dm_control reads them, and its episodes begin as dm_control's do.

    Args:
        name: Name of the task.
        paid: Reward (n,) of what is measured. None: there is none.

    Attributes:
        obs_has_state: Whether the obs tells positions and velocities, so that the reward of old
            data can be computed from them. The subclass then defines `qpos` and `qvel`.
    """

    sensors_at_end = True
    action_unit = "1"
    episode_steps = 1000
    obs_has_state = True

    def __init__(self, name: str, paid: Reward | None = None) -> None:
        self.name = name
        self._paid = paid
        if paid:
            self.measured_reward = self._measured_reward
            self.reward = self._reward_of_state if self.obs_has_state else None

    def measured(self, rows: np.ndarray) -> Measured:
        """Returns readings (n, n_readings) by name."""
        return Measured(self.model, rows)

    def qvel(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint velocities (n, nv) of obs (n, obs_dim)."""
        raise NotImplementedError

    def _measured_reward(self, rows: np.ndarray, command: np.ndarray) -> np.ndarray:
        assert self._paid
        return self._paid(self.measured(rows))

    def _reward_of_state(self, obs: np.ndarray) -> np.ndarray:
        assert self._paid
        return self._paid(self.measured(self._simulator(self.qpos(obs), self.qvel(obs))))

    @cached_property
    def _simulator(self) -> Readings:
        return Readings(self.model)


class Readings:
    """Measures states: what sensors of position and velocity read in them.

    Args:
        model: The compiled world.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        n_threads = allowed_threads()
        self._model = model
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


def random_joints(model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator) -> None:
    """Draws joint positions as dm_control does: in their range, and hinges without one anywhere."""
    for joint in range(model.njnt):
        place = model.jnt_qposadr[joint]
        if model.jnt_limited[joint]:
            data.qpos[place] = rng.uniform(*model.jnt_range[joint])
        elif model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE:
            data.qpos[place] = rng.uniform(-np.pi, np.pi)


def at_least(values: np.ndarray, low: float, margin: float, at_margin: float = 0.0) -> np.ndarray:
    """Returns 1 where values (n,) reach `low`, and less in a straight line below.

    It is `at_margin` a distance of `margin` below `low`, and 0 where the line reaches 0.
    """
    return np.clip(1 - (1 - at_margin) * (low - values) / margin, 0.0, 1.0)


def near(distance: np.ndarray, margin: float) -> np.ndarray:
    """Returns a Gaussian of distances (n,): 1 at 0 and below, .1 at `margin`."""
    return np.exp(np.log(0.1) * (np.maximum(distance, 0.0) / margin) ** 2)
