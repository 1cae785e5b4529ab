"""The desk arm: one world and one observation, six tasks (as a URLB domain).

Observation (22): joint_pos (6) [rad], joint_vel (6) [rad/s], command (6) [rad], end_effector (3)
[m], button_travel (1) [m]. Sensors are those of the last physics step, 2 ms before the end of the
control step. Action (6): rate of each joint's position command, in [-1, 1] of `MAX_RATE`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, partial
from importlib import resources

import mujoco
import numpy as np

from sim.core.coverage import SeveralCoverages, VoxelCoverage
from sim.core.registry import TASKS
from sim.core.spec import Part, tile
from sim.core.subspaces import grid_coverage
from sim.tasks.arm_reach import VOXEL_M, reachable_voxels
from sim.tasks.mujoco_task import MujocoTask, Starts, draw_starts

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
MAX_RATE = 3.0  # [rad/s], under the servo's no-load speed of about 4.7
PRESSED_M = 0.005  # travel that counts as down, of 0.008
REACHED_M = 0.02
FAR_M = 0.25
FLOOR_M = 0.03
REST_POSE = (0.0, -1.2, 1.2, 0.6, 0.0, 0.3)  # folded, hand above the desk
TARGETS = {
    "left": (0.12, 0.20, 0.20),
    "right": (0.12, -0.20, 0.20),
    "high": (0.16, 0.0, 0.34),
    "low": (0.26, 0.0, 0.05),
}
END_EFFECTOR = slice(18, 21)
BUTTON = 21


@cache
def load_model() -> mujoco.MjModel:
    """Returns the compiled world."""
    return mujoco.MjModel.from_xml_string(_mjcf())


def _mjcf() -> str:
    return resources.files("sim").joinpath("assets/desk_arm.xml").read_text()


def joint_range() -> tuple[np.ndarray, np.ndarray]:
    """Returns the joints' (low, high) [rad], each (6,)."""
    span = load_model().jnt_range[: len(JOINTS)]
    return span[:, 0].copy(), span[:, 1].copy()


class ArmTask(MujocoTask):
    """The arm without a reward. It starts at rest; an episode lasts 4 s."""

    name = "arm"
    control_period_s = 0.01
    episode_steps = 400
    hold = 10  # 10 decisions a second
    domain = "arm"
    action_kind = "increment"
    max_rate = MAX_RATE
    camera = "front"
    novelty_fields = ("end_effector", "button_travel")

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The compiled world, one for all six tasks."""
        return load_model()

    def command_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the joint ranges."""
        return joint_range()

    @property
    def starts(self) -> Starts:
        """Poses near REST_POSE."""
        return poses("rest")

    @property
    def restarts(self) -> Starts:
        """Poses from all over the workspace."""
        return poses("random")

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the five fields of the observation."""
        low, high = joint_range()
        speed = np.full(len(JOINTS), 6.0)
        reach = np.array([0.45, 0.45, 0.5])
        return (
            Part("joint_pos", "rad", low, high, entries=_each_joint("pos")),
            Part("joint_vel", "rad/s", -speed, speed, entries=_each_joint("vel")),
            Part("command", "rad", low, high, entries=_each_joint("command")),
            Part("end_effector", "m", reach * (-1, -1, 0), reach, entries=axes("end_effector")),
            Part("button_travel", "m", 0.0, 0.008, entries=("button.travel",)),
        )

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, 22) float32 of sensor readings (n, 16) and commands (n, 6)."""
        parts = [sensor[:, :12], command, sensor[:, 12:]]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def success(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) bool: the button is down."""
        return pressed(obs)

    def new_coverage(self) -> SeveralCoverages:
        """Returns a counter of the voxels that the end effector passes through.

        It also counts bins of the four joints that move the end effector.
        """
        joints = {f"{joint}.pos": 8 for joint in JOINTS[:4]}
        return SeveralCoverages(
            {
                "coverage_hand": VoxelCoverage(END_EFFECTOR, VOXEL_M, reachable_voxels),
                "coverage_joints": grid_coverage(tile(*self.obs_parts()), joints),
            }
        )

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, 7), the button's travel last."""
        return np.concatenate([obs[:, :6], obs[:, 21:22]], 1).astype(np.float64)


class PressTask(ArmTask):
    """Press the button from a random pose. Pays 1 in each control step in which it is down."""

    name = "arm-press"
    episode_steps = 200

    @property
    def starts(self) -> Starts:
        """Poses from all over the workspace."""
        return poses("random")

    def reward(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) 1 where the button is down, else 0."""
        return pressed(obs).astype(np.float32)


class ReachTask(PressTask):
    """Hold the end effector at a target, from a random pose.

    Args:
        side: One of TARGETS.
    """

    success_when = "end"

    def __init__(self, side: str) -> None:
        self.name = f"arm-reach-{side}"
        self._target = TARGETS[side]

    def reward(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) exp(-distance / 8 cm)."""
        return np.exp(-distance(obs, self._target) / 0.08).astype(np.float32)

    def success(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) bool: within REACHED_M of the target."""
        return distance(obs, self._target) < REACHED_M


ARM_TASKS: dict[str, Callable[[], ArmTask]] = {
    "arm": ArmTask,
    "arm-press": PressTask,
    **{f"arm-reach-{side}": partial(ReachTask, side) for side in TARGETS},
}
for _name, _task in ARM_TASKS.items():
    TASKS.register(_name)(_task)


def _each_joint(quantity: str) -> tuple[str, ...]:
    return tuple(f"{joint}.{quantity}" for joint in JOINTS)


def axes(point: str) -> tuple[str, ...]:
    """Returns the names of a point's three numbers."""
    return tuple(f"{point}.{axis}" for axis in "xyz")


def pressed(obs: np.ndarray) -> np.ndarray:
    """Returns (n,) bool: the button is down."""
    return obs[:, BUTTON] > PRESSED_M


def distance(obs: np.ndarray, target: tuple[float, ...]) -> np.ndarray:
    """Returns (n,) the end effector's distance to `target` [m]."""
    return np.linalg.norm(obs[:, END_EFFECTOR] - np.asarray(target, np.float32), axis=1)


@cache
def poses(kind: str) -> Starts:
    """Returns start states (m, state) and sensor readings (m, 16).

    `rest`: REST_POSE +- 0.05 rad. `random`: uniform in the joint ranges, nothing in contact,
    fingers FLOOR_M or more above the desk and FAR_M or more from the button, so that pressing it
    takes a real reach.
    """
    return draw_starts(load_model(), partial(_place, kind))


def _place(kind: str, data: mujoco.MjData, rng: np.random.Generator) -> bool:
    """Puts the arm into a random pose, and returns whether it is one of `poses(kind)`."""
    data.qpos[:6] = draw_pose(kind, rng)
    mujoco.mj_forward(load_model(), data)
    if not is_free(data):
        return False
    to_button = np.linalg.norm(data.sensordata[12:15] - data.body("button").xpos)
    return kind != "random" or bool(to_button >= FAR_M)


def draw_pose(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Returns joint angles (6,): of all poses for `random`, else near REST_POSE."""
    wide = rng.uniform(*joint_range())
    return wide if kind == "random" else REST_POSE + rng.uniform(-0.05, 0.05, 6)


def is_free(data: mujoco.MjData) -> bool:
    """Returns whether nothing touches and the fingers are FLOOR_M or more above the desk."""
    return not data.ncon and bool(data.sensordata[14] >= FLOOR_M)
