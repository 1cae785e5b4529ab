"""What planar bodies share that are observed by their joints: position, then velocity."""

from __future__ import annotations

import mujoco
import numpy as np

from sim.core.spec import Part
from sim.tasks.urlb.body import Body
from sim.tasks.urlb.measured import JOINT, SENSOR, Measured, measure, suite_model

ROOTS = ("rootx", "rootz", "rooty")  # the first joints: two slides and a hinge without range


class Planar(Body):
    """A body in the x-z plane whose obs begins with joint positions and velocities.

    Position (nq - 1) [m, rad] leaves out `rootx`, so that all places on the floor look the same.
    Velocity (nv) [m/s, rad/s] is that of all joints. A subclass may add what else it sees.
    """

    novelty_fields = ("rootz.pos", "rooty.pos", *(f"{root}.vel" for root in ROOTS))

    @classmethod
    def world(cls) -> mujoco.MjSpec:
        """Returns dm_control's model of the domain, with a sensor for each number observed."""
        spec = suite_model(cls.domain)
        joints = [joint.name for joint in spec.joints]
        measure(spec, SENSOR.mjSENS_JOINTPOS, JOINT, *joints)
        measure(spec, SENSOR.mjSENS_JOINTVEL, JOINT, *joints)
        measure(spec, SENSOR.mjSENS_SUBTREEANGMOM, mujoco.mjtObj.mjOBJ_BODY, "torso")
        return spec

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of all joints, `ROOTS` first."""
        return tuple(self.model.joint(i).name for i in range(self.model.njnt))

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
