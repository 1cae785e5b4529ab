"""The four-legged quadruped: 78 numbers, 12 commands. Tasks: stand, walk, run, jump (URLB).

Observation: egocentric state (44), angles [rad] and velocities [rad/s] of the 16 leg joints and
activations of the 12 actuators; torso velocity (3) [m/s] in the torso's frame; torso upright (1),
cosine of its tilt; IMU (6), acceleration [m/s^2] and angular velocity [rad/s] in the torso's frame;
force and torque (24), arcsinh of the forces [N] and then the torques [N m] at the four toes.

Place and heading are not observed, nor is the height.

Exploration is measured by bins of the torso (height, tilt, horizontal speed), of where it is (x, y,
height), of pitch and knee of two opposite legs at each height and tilt of the torso, and by the
number of different sets of toes, thighs and torso in contact, counted apart by tilt and height.
Heading and direction do not matter.
"""

from __future__ import annotations

from functools import partial

import mujoco
import numpy as np

from sim.core.coverage import SeveralCoverages
from sim.core.spec import Part
from sim.core.subspaces import grid_coverage, pattern_coverage
from sim.tasks.urlb.body import Body, Paid, at_least, register
from sim.tasks.urlb.measured import (
    BODY,
    JOINT,
    SENSOR,
    Measured,
    measure,
    measure_contacts,
    sensor_slice,
    suite_model,
)
from sim.tasks.urlb.starts import forward_unpowered

LEGS = ("front_left", "front_right", "back_right", "back_left")
HINGES = tuple(f"{part}_{leg}" for leg in LEGS for part in ("yaw", "pitch", "knee", "ankle"))
ACTUATORS = tuple(f"{part}_{leg}" for leg in LEGS for part in ("yaw", "lift", "extend"))
ANGLES = tuple(f"jointpos.{hinge}" for hinge in HINGES)
VELOCITIES = tuple(f"jointvel.{hinge}" for hinge in HINGES)
IMU = ("imu_accel", "imu_gyro")
TOES = tuple(f"{kind}_toe_{leg}" for kind in ("force", "torque") for leg in LEGS)
TOUCHING = ("torso", *(f"{part}_{leg}" for part in ("hip", "toe") for leg in LEGS))
CONTACTS = tuple(f"contact.{body}" for body in TOUCHING)
BENDS = tuple(f"{part}_{leg}" for leg in ("front_left", "back_right") for part in ("pitch", "knee"))
FAR_M = 15.0  # bins of the place reach so far from the origin along x and y
HIGH_M = 1.5  # those of the torso's height up to here
FAST_MS = 5.0  # those of its speed up to here
SPARE_GEOMS = ("wall_px", "wall_py", "wall_nx", "wall_ny", "terrain")
FLOOR_M = 100.0  # half its side, as drawn; it has no end for the physics
WALK_MS = 0.5
RUN_MS = 5.0
JUMP_M = 1.0  # height of the centre of mass
STEP_UP_M = 0.01


class Quadruped(Body):
    """The quadruped without reward, or with that of one of `QUADRUPED_TASKS`."""

    control_period_s = 0.02
    domain = "quadruped"
    camera = "x"

    @classmethod
    def world(cls) -> mujoco.MjSpec:
        """Returns dm_control's quadruped on a bare floor, with sensors for all that is observed."""
        spec = suite_model("quadruped")
        rangefinders = [s for s in spec.sensors if s.type == SENSOR.mjSENS_RANGEFINDER]
        geoms = [spec.geom(name) for name in SPARE_GEOMS]
        for spare in (*rangefinders, *geoms, spec.body("ball"), spec.site("target")):
            spec.delete(spare)
        spec.geom("floor").size = [FLOOR_M, FLOOR_M, 0.5]
        measure(spec, SENSOR.mjSENS_JOINTPOS, JOINT, *HINGES)
        measure(spec, SENSOR.mjSENS_JOINTVEL, JOINT, *HINGES)
        for kind in (SENSOR.mjSENS_FRAMEZAXIS, SENSOR.mjSENS_FRAMEPOS, SENSOR.mjSENS_FRAMELINVEL):
            measure(spec, kind, BODY, "torso")
        measure_contacts(spec, *TOUCHING)
        return spec

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the five fields of the observation."""
        ranges = self.model.jnt_range[1:]
        low = np.concatenate([ranges[:, 0], np.full(16, -np.inf), np.full(12, -1.1)])
        high = np.concatenate([ranges[:, 1], np.full(16, np.inf), np.full(12, 1.1)])
        kinds = ((".pos", HINGES), (".vel", HINGES), (".activation", ACTUATORS))
        state = tuple(f"{name}{kind}" for kind, names in kinds for name in names)
        return (
            Part("egocentric_state", "rad, rad/s, 1", low, high, entries=state),
            _unlimited("torso_velocity", "m/s", ("torso.velocity",)),
            Part("torso_upright", "1", -1.0, 1.0, entries=("torso.zz",)),
            _unlimited("imu", "m/s^2, rad/s", IMU),
            _unlimited("force_torque", "arcsinh(N), arcsinh(N m)", TOES),
        )

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, 78) float32 of readings (n, n_readings)."""
        seen = self.measured(sensor)
        state = (seen(*ANGLES, *VELOCITIES), seen.activation)
        torso = (seen("velocimeter"), seen("framezaxis.torso")[:, 2:], seen(*IMU))
        toes = np.arcsinh(seen(*TOES))
        return np.concatenate([*state, *torso, toes], axis=1).astype(np.float32)

    def explored_parts(self) -> tuple[Part, ...]:
        """Returns the fields of what exploration is measured by."""
        low, high = self.model.jnt_range[1:].T
        flags = np.ones(len(CONTACTS))
        return (
            Part("place", "m", np.full(2, -FAR_M), FAR_M, entries=("x", "y")),
            Part("height", "m", 0.0, HIGH_M),
            Part("tilt", "rad", 0.0, np.pi),
            Part("speed", "m/s", 0.0, FAST_MS),
            Part("angle", "rad", low, high, entries=HINGES),
            Part("contact", "1", 0 * flags, flags, entries=CONTACTS),
        )

    def explored(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns the numbers (n, 30) of `explored_parts` of readings (n, n_readings)."""
        seen = self.measured(sensor)
        tilt = np.arccos(np.clip(seen("framezaxis.torso")[:, 2:], -1.0, 1.0))
        speed = np.linalg.norm(seen("framelinvel.torso")[:, :2], axis=1, keepdims=True)
        torso = (seen("framepos.torso"), tilt, speed)
        return np.concatenate([*torso, seen(*ANGLES, *CONTACTS)], axis=1)

    def new_coverage(self) -> SeveralCoverages:
        """Returns a counter of what this module's docstring names."""
        fields = self.explored_fields
        joints = {**dict.fromkeys(BENDS, 5), "height": 6, "tilt": 6}
        return SeveralCoverages(
            {
                "coverage_torso": grid_coverage(fields, {"height": 24, "tilt": 24, "speed": 32}),
                "coverage_place": grid_coverage(fields, {"x": 60, "y": 60, "height": 6}),
                "coverage_joints": grid_coverage(fields, joints),
                "n_contacts": pattern_coverage(fields, "contact", {"tilt": 12, "height": 12}),
            }
        )

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Turns the body anyhow, just so high that it touches nothing; it then falls."""
        orientation = rng.standard_normal(4)
        data.qpos[:3] = 0.0
        data.qpos[3:7] = orientation / np.linalg.norm(orientation)
        while _touches(self.model, data):
            data.qpos[2] += STEP_UP_M
        forward_unpowered(data)
        return True

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, 23) for pictures: in the air, tilted about y."""
        tilt = np.arccos(np.clip(obs[:, 47].astype(np.float64), -1.0, 1.0)) / 2
        qpos = np.tile(self.model.qpos0, (len(obs), 1))
        qpos[:, 3] = np.cos(tilt)
        qpos[:, 5] = np.sin(tilt)
        qpos[:, 7:] = obs[:, :16]
        return qpos

    def seen_in(self, obs: np.ndarray) -> Measured:
        """Returns the torso's velocity and z axis; the obs tells nothing else that is paid."""
        rows = np.full((len(obs), self.model.nsensordata + self.model.na), np.nan)
        rows[:, sensor_slice(self.model, "velocimeter")] = obs[:, 44:47]
        rows[:, sensor_slice(self.model, "framezaxis.torso").stop - 1] = obs[:, 47]
        return self.measured(rows)


def _unlimited(name: str, unit: str, sensors: tuple[str, ...]) -> Part:
    """Returns the field of sensors with three numbers each."""
    limit = np.full(3 * len(sensors), np.inf)
    entries = tuple(f"{sensor}.{axis}" for sensor in sensors for axis in "xyz")
    return Part(name, unit, -limit, limit, entries=entries)


def _touches(model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    mujoco.mj_kinematics(model, data)
    mujoco.mj_collision(model, data)
    return data.ncon > 0


def stand(seen: Measured) -> np.ndarray:
    """Returns (n,) 1 for an upright torso, 0 for one upside down."""
    return (1 + seen("framezaxis.torso")[:, 2]) / 2


def move(seen: Measured, speed_ms: float) -> np.ndarray:
    """Returns (n,) the reward of standing and moving where the torso points at `speed_ms` [m/s]."""
    return stand(seen) * at_least(seen("velocimeter")[:, 0], speed_ms, speed_ms, 0.5)


def jump(seen: Measured) -> np.ndarray:
    """Returns (n,) the reward of an upright torso and a high centre of mass."""
    return stand(seen) * at_least(seen("center_of_mass")[:, 2], JUMP_M, JUMP_M, 0.5)


QUADRUPED_TASKS = {
    "quadruped": None,
    "quadruped-stand": Paid(stand),
    "quadruped-walk": Paid(partial(move, speed_ms=WALK_MS)),
    "quadruped-run": Paid(partial(move, speed_ms=RUN_MS)),
    "quadruped-jump": Paid(jump, hidden="height"),
}
register(Quadruped, QUADRUPED_TASKS)
