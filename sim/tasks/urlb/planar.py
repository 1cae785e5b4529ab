"""What planar bodies share that are observed by their joints: position, then velocity.

Exploration is measured by bins of the torso (height, pitch, forward speed), of where it is (x,
height, pitch), of joints at each height and speed of the torso, and by the number of different sets
of bodies in contact, counted apart by speed.
"""

from __future__ import annotations

import mujoco
import numpy as np

from sim.core.coverage import SeveralCoverages
from sim.core.spec import Part
from sim.core.subspaces import grid_coverage, pattern_coverage
from sim.tasks.urlb.body import Body
from sim.tasks.urlb.measured import JOINT, SENSOR, Measured, measure, measure_contacts, suite_model

ROOTS = ("rootx", "rootz", "rooty")  # the first joints: two slides and a hinge without range
FAR_M = 20.0  # bins of the place on the floor reach so far from the origin
HIGH_M = 1.5  # those of the torso's height up to here


class Planar(Body):
    """A body in the x-z plane whose obs begins with joint positions and velocities.

    Position (nq - 1) [m, rad] leaves out `rootx`, so that all places on the floor look the same.
    Velocity (nv) [m/s, rad/s] is that of all joints. A subclass may add what else it sees.

    Attributes:
        fast_ms: Bins of the forward speed reach up to this one, and as far backward.
        bends: The joints whose angles are counted.
    """

    fast_ms: float
    bends: tuple[str, ...]

    @classmethod
    def world(cls) -> mujoco.MjSpec:
        """Returns dm_control's model of the domain, with a sensor for each number observed."""
        spec = suite_model(cls.domain)
        joints = [joint.name for joint in spec.joints]
        measure(spec, SENSOR.mjSENS_JOINTPOS, JOINT, *joints)
        measure(spec, SENSOR.mjSENS_JOINTVEL, JOINT, *joints)
        measure(spec, SENSOR.mjSENS_SUBTREEANGMOM, mujoco.mjtObj.mjOBJ_BODY, "torso")
        measure_contacts(spec, *(body.name for body in spec.bodies[1:]))
        return spec

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of all joints, `ROOTS` first."""
        return tuple(self.model.joint(i).name for i in range(self.model.njnt))

    @property
    def bodies(self) -> tuple[str, ...]:
        """Names of all bodies but the world."""
        return tuple(self.model.body(i).name for i in range(1, self.model.nbody))

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the fields of position and velocity."""
        model = self.model
        limited = model.jnt_limited[1:].astype(bool)
        low = np.where(limited, model.jnt_range[1:, 0], -np.inf)
        high = np.where(limited, model.jnt_range[1:, 1], np.inf)
        fastest = np.full(model.nv, np.inf)
        positions = tuple(f"{joint}.pos" for joint in self.joints[1:])
        velocities = tuple(f"{joint}.vel" for joint in self.joints)
        return (
            Part("position", "m or rad", low, high, entries=positions),
            Part("velocity", "1/s", -fastest, fastest, entries=velocities),
        )

    def seen_joints(self, seen: Measured) -> np.ndarray:
        """Returns positions and velocities (n, nq - 1 + nv)."""
        positions = [f"jointpos.{joint}" for joint in self.joints[1:]]
        return seen(*positions, *(f"jointvel.{joint}" for joint in self.joints))

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, obs_dim) float32 of readings (n, n_readings)."""
        return self.seen_joints(self.measured(sensor)).astype(np.float32)

    def explored_parts(self) -> tuple[Part, ...]:
        """Returns the fields of what exploration is measured by."""
        hinges = self.joints[len(ROOTS) :]
        low, high = self.model.jnt_range[len(ROOTS) :].T
        contacts = tuple(f"contact.{body}" for body in self.bodies)
        flags = np.ones(len(contacts))
        return (
            Part("x", "m", -FAR_M, FAR_M),
            Part("height", "m", 0.0, HIGH_M),
            Part("pitch", "rad", -np.pi, np.pi),
            Part("speed", "m/s", -self.fast_ms, self.fast_ms),
            Part("angle", "rad", low, high, entries=hinges),
            Part("contact", "1", 0 * flags, flags, entries=contacts),
        )

    def explored(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns the numbers (n, k) of `explored_parts` of readings (n, n_readings)."""
        seen = self.measured(sensor)
        x, z, turned = seen(*(f"jointpos.{root}" for root in ROOTS)).T
        pitch = np.mod(turned + np.pi, 2 * np.pi) - np.pi
        height = self.model.body("torso").pos[2] + z
        torso = np.stack([x, height, pitch, forward_speed(seen)], axis=1)
        angles = seen(*(f"jointpos.{hinge}" for hinge in self.joints[len(ROOTS) :]))
        return np.concatenate(
            [torso, angles, seen(*(f"contact.{body}" for body in self.bodies))], axis=1
        )

    def new_coverage(self) -> SeveralCoverages:
        """Returns a counter of what this module's docstring names."""
        fields = self.explored_fields
        joints = {**dict.fromkeys(self.bends, 4), "height": 9, "speed": 16}
        return SeveralCoverages(
            {
                "coverage_torso": grid_coverage(fields, {"height": 18, "pitch": 24, "speed": 32}),
                "coverage_place": grid_coverage(fields, {"x": 80, "height": 9, "pitch": 12}),
                "coverage_joints": grid_coverage(fields, joints),
                "n_contacts": pattern_coverage(fields, "contact", {"speed": 32}),
            }
        )

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, nq); that along x is not observed and is 0."""
        return np.pad(obs[:, : self.model.nq - 1].astype(np.float64), ((0, 0), (1, 0)))

    def qvel(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint velocities (n, nv)."""
        first = self.model.nq - 1
        return obs[:, first : first + self.model.nv].astype(np.float64)


def forward_speed(seen: Measured) -> np.ndarray:
    """Returns the speed (n,) of the centre of mass along x [m/s]."""
    return seen("torso_subtreelinvel")[:, 0]


def spin(seen: Measured) -> np.ndarray:
    """Returns the angular momentum (n,) about y [kg m^2/s]."""
    return seen("subtreeangmom.torso")[:, 1]
