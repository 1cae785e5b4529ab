"""The Jaco arm over a loose brick: 55 numbers, 9 joint speeds. Tasks: reach it in each corner.

Observation, in URLB's order: sine and cosine of the arm's joints (12); symlog of the torques about
them (6) [Nm]; their velocity (6) [rad/s]; the fingers' position (3) [rad] and velocity (3) [rad/s];
the pinch site's position (3) [m] and rotation matrix (9); the brick's angular velocity (3) [rad/s],
velocity (3) [m/s], quaternion (4) and position (3) [m].

Exploration is measured by bins of the hand's place (`coverage_hand`), of the brick's
(`coverage_brick`), of the arm's joints (`coverage_joints`), and by the sets of finger tips and
brick that touch something, in bins of the brick's height (`n_contacts`).
"""

from __future__ import annotations

from functools import cached_property, partial

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from sim.core.coverage import SeveralCoverages
from sim.core.registry import TASKS
from sim.core.spec import ObsFn, Part
from sim.core.subspaces import grid_coverage, pattern_coverage
from sim.tasks.mujoco_task import Starts, draw_starts
from sim.tasks.urlb.body import Body, near
from sim.tasks.urlb.jaco_model import ARM, BRICK_CENTRE_M, FINGERS, jaco_spec
from sim.tasks.urlb.jaco_poses import N_JOINTS, poses
from sim.tasks.urlb.measured import JOINT, SENSOR, measure, measure_contacts

FINGER = slice(24, 27)  # columns of the obs
PINCH = slice(30, 33)
QUATERNION = slice(48, 52)
CENTRE = slice(52, 55)
SITE = mujoco.mjtObj.mjOBJ_SITE
HAND_BOX_M = ((-1.0, -0.6, 0.0), (1.0, 1.4, 1.3))
BRICK_BOX_M = ((-0.6, -0.6, 0.0), (0.6, 0.6, 0.6))
TARGET_RADIUS_M = 0.05
CORNER_M = 0.09  # how far the brick lies from the middle, along x and along y
DROP_M = 0.001  # above the floor; from there the brick settles
STILL = (1e-3, 1e-2)  # largest velocity and acceleration of a brick that has settled
BRICK_MOTION = ("brick_angular_velocity", "brick_linear_velocity")
BRICK_POSE = ("brick_orientation", "brick_position")
TOUCHING = (*(f"hand_b_finger_tip_{i}" for i in range(1, 4)), "brick")
PINCH_AXES = tuple(f"frame{axis}axis.hand_pinchsite" for axis in "xyz")


class Jaco(Body):
    """The arm without reward, or with that of one of `JACO_TASKS`.

    Episodes begin with the hand above the brick, pointing down, in one of `jaco_poses`.

    Args:
        name: Name of the task.
        corner_m: Where the brick lies at the start (x, y) [m].
        paid: Reward (n,) of obs (n, 55). None: there is none.
    """

    control_period_s = 0.04
    episode_steps = 250
    action_unit = "rad/s"
    domain = "jaco"
    camera = "front_close"
    novelty_fields = ("pinch_position", "brick_position")

    def __init__(self, name: str, corner_m: tuple[float, float], paid: ObsFn | None = None) -> None:
        super().__init__(name)
        self._corner_m = corner_m
        self.reward = paid

    @classmethod
    def world(cls) -> mujoco.MjSpec:
        """Returns dm_control's arm, hand and brick, with sensors for what is observed."""
        spec = jaco_spec()
        measure(spec, SENSOR.mjSENS_JOINTPOS, JOINT, *ARM, *FINGERS)
        measure(spec, SENSOR.mjSENS_JOINTVEL, JOINT, *ARM, *FINGERS)
        measure(spec, SENSOR.mjSENS_TORQUE, SITE, *ARM)
        measure(spec, SENSOR.mjSENS_FRAMEPOS, SITE, "hand_pinchsite")
        for axis in (SENSOR.mjSENS_FRAMEXAXIS, SENSOR.mjSENS_FRAMEYAXIS, SENSOR.mjSENS_FRAMEZAXIS):
            measure(spec, axis, SITE, "hand_pinchsite")
        measure_contacts(spec, *TOUCHING)
        return spec

    @cached_property
    def starts(self) -> Starts:
        """Start states and their readings; each task has a corner of its own."""
        return draw_starts(self.model, self.place)

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the eleven fields of the observation."""
        one = np.ones(12)
        free = np.full(6, np.inf)
        low, high = self.model.joint(FINGERS[0]).range
        angles = tuple(f"{joint}.{part}" for joint in ARM for part in ("sin", "cos"))
        return (
            Part("joint_angles", "1", -one, one, entries=angles),
            Part("joint_torques", "1", -free, free, entries=tuple(f"{j}.torque" for j in ARM)),
            Part("joint_velocity", "rad/s", -free, free, entries=tuple(f"{j}.vel" for j in ARM)),
            Part("fingers", "rad", np.full(3, low), high, entries=FINGERS),
            Part("finger_velocity", "rad/s", -free[:3], np.inf),
            Part("pinch_position", "m", *HAND_BOX_M),
            Part("pinch_rotation", "1", -one[:9], 1.0),
            Part("brick_angular_velocity", "rad/s", -free[:3], np.inf),
            Part("brick_velocity", "m/s", -free[:3], np.inf),
            Part("brick_orientation", "1", -one[:4], 1.0),
            Part("brick_position", "m", -free[:3], np.inf),
        )

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, 55) float32 of readings (n, n_readings)."""
        seen = self.measured(sensor)
        angle = seen(*(f"jointpos.{joint}" for joint in ARM))
        torque = seen(*(f"torque.{joint}" for joint in ARM))[:, 2::3]  # joints turn about z
        axes = seen(*PINCH_AXES).reshape(-1, 3, 3)
        parts = [
            np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(sensor), -1),
            np.sign(torque) * np.log1p(np.abs(torque)),
            seen(*(f"jointvel.{joint}" for joint in ARM)),
            seen(*(f"jointpos.{joint}" for joint in FINGERS)),
            seen(*(f"jointvel.{joint}" for joint in FINGERS)),
            seen("framepos.hand_pinchsite"),
            axes.transpose(0, 2, 1).reshape(len(sensor), -1),  # axes are the matrix's columns
            seen(*BRICK_MOTION, *BRICK_POSE),
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def explored_parts(self) -> tuple[Part, ...]:
        """Returns the fields of what exploration is measured by."""
        around = np.full(len(ARM), 2 * np.pi)
        flags = np.ones(len(TOUCHING))
        return (
            Part("hand", "m", *HAND_BOX_M, entries=("hand.x", "hand.y", "hand.z")),
            Part("brick", "m", *BRICK_BOX_M, entries=("brick.x", "brick.y", "brick.z")),
            Part("angle", "rad", 0 * around, around, entries=ARM),
            Part("contact", "1", 0 * flags, flags, entries=TOUCHING),
        )

    def explored(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns the numbers (n, 16) of `explored_parts` of readings (n, n_readings)."""
        seen = self.measured(sensor)
        angles = np.mod(seen(*(f"jointpos.{joint}" for joint in ARM)), 2 * np.pi)
        places = seen("framepos.hand_pinchsite", "brick_position")
        contacts = seen(*(f"contact.{body}" for body in TOUCHING))
        return np.concatenate([places, angles, contacts], axis=1)

    def new_coverage(self) -> SeveralCoverages:
        """Returns a counter of what the class's module names."""
        fields = self.explored_fields
        bends = dict(zip(ARM, (8, 8, 8, 4, 4, 4), strict=True))
        brick = {"brick.x": 24, "brick.y": 24, "brick.z": 12}
        return SeveralCoverages(
            {
                "coverage_hand": grid_coverage(fields, {"hand.x": 20, "hand.y": 20, "hand.z": 13}),
                "coverage_brick": grid_coverage(fields, brick),
                "coverage_joints": grid_coverage(fields, bends),
                "n_contacts": pattern_coverage(fields, "contact", {"brick.z": 12}),
            }
        )

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Puts the hand above the workspace, and the brick into its corner, turned at random."""
        pose = poses()
        data.qpos[:N_JOINTS] = pose[rng.integers(len(pose))]
        angle = rng.uniform(-np.pi, np.pi)
        height, velocity = self._rest
        data.qpos[N_JOINTS:] = (*self._corner_m, height, np.cos(angle / 2), 0, 0, np.sin(angle / 2))
        data.qvel[N_JOINTS + 2] = velocity
        mujoco.mj_forward(self.model, data)
        return True

    @cached_property
    def _rest(self) -> tuple[float, float]:
        """The height [m] and the vertical velocity [m/s] of the brick when it has settled.

        As in dm_control it counts as settled while it still creeps out of the floor, at 0.1 mm/s.
        Its height and velocity are the same for every angle about z; the others are below 1e-5.
        """
        data = mujoco.MjData(self.model)
        data.qpos[:N_JOINTS] = poses()[0]
        data.qpos[N_JOINTS + 2] = DROP_M
        brick = slice(N_JOINTS, None)
        settled = False
        while not settled:
            mujoco.mj_step(self.model, data)
            fastest = np.abs([data.qvel[brick], data.qacc[brick]]).max(axis=1)
            settled = bool((fastest < STILL).all()) or data.time > 2.0
        return float(data.qpos[N_JOINTS + 2]), float(data.qvel[N_JOINTS + 2])

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, 16): arm, fingers, the brick's position and quaternion."""
        sines = obs[:, :12].astype(np.float64).reshape(-1, 6, 2)
        arm = np.mod(np.arctan2(sines[..., 0], sines[..., 1]), 2 * np.pi)
        return np.concatenate(
            [arm, obs[:, FINGER], brick_position(obs), obs[:, QUATERNION]], axis=1
        )


def brick_position(obs: np.ndarray) -> np.ndarray:
    """Returns the origin of the brick (n, 3) [m]; its centre is observed, 12 mm above."""
    turn = Rotation.from_quat(obs[:, QUATERNION], scalar_first=True)
    return obs[:, CENTRE] - turn.apply(BRICK_CENTRE_M)


def reach(obs: np.ndarray) -> np.ndarray:
    """Returns (n,) 1 where the pinch site is within 5 cm of the brick's origin, less around it."""
    away = np.linalg.norm(obs[:, PINCH] - brick_position(obs), axis=1)
    return near(away - TARGET_RADIUS_M, TARGET_RADIUS_M)


# URLB pre-trains where the brick lies top left; so does the task without reward.
TOP_LEFT = (-CORNER_M, CORNER_M)
JACO_TASKS: dict[str, tuple[tuple[float, float], ObsFn | None]] = {
    "jaco": (TOP_LEFT, None),
    "jaco-reach-top-left": (TOP_LEFT, reach),
    "jaco-reach-top-right": ((CORNER_M, CORNER_M), reach),
    "jaco-reach-bottom-left": ((-CORNER_M, -CORNER_M), reach),
    "jaco-reach-bottom-right": ((CORNER_M, -CORNER_M), reach),
}
for _name, _rest in JACO_TASKS.items():
    TASKS.register(_name)(partial(Jaco, _name, *_rest))
