"""The planar walker: 24 numbers, 6 torques. Tasks: stand, walk, run, flip (arXiv 2110.15191).

Observation: orientations (14), the x components of each body's x and z axis; height (1) [m] of the
torso; velocity (9) [m/s, rad/s] of the joints, the root's z, x and rotation first.

Exploration is measured by bins of the torso (height, pitch, forward speed), of where it is (x,
height, pitch), of hips and knees at each height and speed of the torso, and by the number of
different sets of limbs in contact, counted apart for every half m/s. The hips and knees alone would
say little: episodes begin with any joint angles.
"""

from __future__ import annotations

from functools import partial

import mujoco
import numpy as np

from sim.core.coverage import SeveralCoverages
from sim.core.spec import Part
from sim.core.subspaces import grid_coverage, pattern_coverage
from sim.tasks.urlb.body import Body, Paid, at_least, near, register
from sim.tasks.urlb.measured import (
    BODY,
    JOINT,
    SENSOR,
    Measured,
    measure,
    measure_contacts,
    suite_model,
)
from sim.tasks.urlb.starts import draw_hinges, draw_limited, forward_unpowered

LEGS = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
ROOTS = ("rootz", "rootx", "rooty")
JOINTS = (*ROOTS, *LEGS)
BODIES = ("torso", "right_thigh", "right_leg", "right_foot", "left_thigh", "left_leg", "left_foot")
AXES = tuple(f"framexaxis.{body}" for body in BODIES)
CONTACTS = tuple(f"contact.{body}" for body in BODIES)
ANGLES = tuple(f"jointpos.{joint}" for joint in LEGS)
VELOCITIES = tuple(f"jointvel.{joint}" for joint in JOINTS)
STAND_HEIGHT_M = 1.2
WALK_MS = 1.0
RUN_MS = 8.0
SPIN = 5.0  # angular momentum [kg m^2/s]


class Walker(Body):
    """The walker without reward, or with that of one of `WALKER_TASKS`."""

    control_period_s = 0.025
    domain = "walker"
    camera = "side"

    @classmethod
    def world(cls) -> mujoco.MjSpec:
        """Returns dm_control's walker, with sensors for what is observed and paid."""
        spec = suite_model(cls.domain)
        measure(spec, SENSOR.mjSENS_FRAMEXAXIS, BODY, *BODIES)
        measure(spec, SENSOR.mjSENS_FRAMEPOS, BODY, "torso")
        measure(spec, SENSOR.mjSENS_JOINTVEL, JOINT, *JOINTS)
        measure(spec, SENSOR.mjSENS_SUBTREEANGMOM, mujoco.mjtObj.mjOBJ_BODY, "torso")
        measure(spec, SENSOR.mjSENS_JOINTPOS, JOINT, *LEGS)
        measure_contacts(spec, *BODIES)
        return spec

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the three fields of the observation."""
        one = np.ones(2 * len(BODIES))
        fastest = np.full(len(JOINTS), np.inf)
        axes = tuple(f"{body}.{axis}" for body in BODIES for axis in ("xx", "xz"))
        return (
            Part("orientations", "1", -one, one, entries=axes),
            Part("height", "m", 0.0, 2.0, entries=("torso.z",)),
            Part("velocity", "1/s", -fastest, fastest, entries=tuple(f"{j}.vel" for j in JOINTS)),
        )

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, 24) float32 of readings (n, n_readings)."""
        seen = self.measured(sensor)
        # The body turns about y alone, so the z axis is (-z, 0, x) where the x axis is (x, 0, z).
        axes = (seen(*AXES).reshape(-1, 3)[:, [0, 2]] * (1, -1)).reshape(len(sensor), -1)
        height = seen("framepos.torso")[:, 2:]
        return np.concatenate([axes, height, seen(*VELOCITIES)], axis=1).astype(np.float32)

    def explored_parts(self) -> tuple[Part, ...]:
        """Returns the fields of what exploration is measured by."""
        low, high = self.model.jnt_range[[self.model.joint(leg).id for leg in LEGS]].T
        flags = np.ones(len(BODIES))
        return (
            Part("x", "m", -15.0, 15.0),
            Part("height", "m", 0.0, 1.8),
            Part("pitch", "rad", -np.pi, np.pi),
            Part("speed", "m/s", -6.0, 6.0),
            Part("angle", "rad", low, high, entries=LEGS),
            Part("contact", "1", 0 * flags, flags, entries=CONTACTS),
        )

    def explored(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns the numbers (n, 17) of `explored_parts` of readings (n, n_readings)."""
        seen = self.measured(sensor)
        forward = seen("framexaxis.torso")
        pitch = np.arctan2(-forward[:, 2:], forward[:, :1])
        place = seen("framepos.torso")[:, [0, 2]]
        speed = seen("torso_subtreelinvel")[:, :1]
        return np.concatenate([place, pitch, speed, seen(*ANGLES), seen(*CONTACTS)], axis=1)

    def new_coverage(self) -> SeveralCoverages:
        """Returns a counter of what the class's module names."""
        fields = self.explored_fields
        bends = {joint: 4 for joint in LEGS if "ankle" not in joint}
        return SeveralCoverages(
            {
                "coverage_torso": grid_coverage(fields, {"height": 18, "pitch": 24, "speed": 24}),
                "coverage_place": grid_coverage(fields, {"x": 60, "height": 9, "pitch": 12}),
                "coverage_joints": grid_coverage(fields, {**bends, "height": 6, "speed": 8}),
                "n_contacts": pattern_coverage(fields, "contact", {"speed": 24}),
            }
        )

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Puts the joints anywhere; the body then falls."""
        draw_limited(data, rng)
        draw_hinges(data, rng)
        forward_unpowered(data)
        return True

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, 9); that along x is not observed and is 0."""
        # A rotation by a about y gives (cos a, sin a). The legs' hinges turn about -y.
        axes = obs[:, : 2 * len(BODIES)].astype(np.float64).reshape(len(obs), -1, 2)
        angle = np.arctan2(axes[..., 1], axes[..., 0])
        parents = (0, 1, 2, 0, 4, 5)
        joints = [angle[:, parent] - angle[:, body] for body, parent in enumerate(parents, start=1)]
        relative = np.mod(np.stack(joints, axis=1) + np.pi, 2 * np.pi) - np.pi
        root = [obs[:, 14:15] - 1.3, np.zeros((len(obs), 1)), angle[:, :1]]
        return np.concatenate([*root, relative], axis=1)

    def qvel(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint velocities (n, 9)."""
        return obs[:, 15:].astype(np.float64)


def stand(seen: Measured) -> np.ndarray:
    """Returns (n,) the share of standing: torso high and upright."""
    high = near(STAND_HEIGHT_M - seen("framepos.torso")[:, 2], STAND_HEIGHT_M / 2)
    upright = (1 + seen("framexaxis.torso")[:, 0]) / 2
    return (3 * high + upright) / 4


def move(seen: Measured, speed_ms: float) -> np.ndarray:
    """Returns (n,) the reward of standing and of moving forward at `speed_ms` [m/s] or faster."""
    forward = seen("torso_subtreelinvel")[:, 0]
    return stand(seen) * (5 * at_least(forward, speed_ms, speed_ms / 2, 0.5) + 1) / 6


def flip(seen: Measured) -> np.ndarray:
    """Returns (n,) the reward of standing and of turning forward about y."""
    turning = at_least(seen("subtreeangmom.torso")[:, 1], SPIN, SPIN)
    return stand(seen) * (5 * turning + 1) / 6


WALKER_TASKS = {
    "walker": None,
    "walker-stand": Paid(stand),
    "walker-walk": Paid(partial(move, speed_ms=WALK_MS)),
    "walker-run": Paid(partial(move, speed_ms=RUN_MS)),
    "walker-flip": Paid(flip, hidden="mass"),
}
register(Walker, WALKER_TASKS)
