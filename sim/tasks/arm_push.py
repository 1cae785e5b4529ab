"""The desk arm with a puck on its desk: one world and one observation, two tasks.

Observation (31): the arm's 22 numbers, then puck (3) [m], puck_vel (3) [m/s], hand_to_puck (3) [m].
The puck's place is that of its centre from the arm's foot; its height is 0 where it lies on the
desk. The button stays: it is the same desk, and what was learned on it keeps its numbers.

The puck never leaves what is observed: it stays in FIELD_M, a field before the arm with a rim that
stops the puck and not the arm. It glides or is lifted, and does not tip. In the field's far corners
no finger reaches behind it; such an episode goes on to its end.
"""

from __future__ import annotations

from functools import cache, cached_property, partial
from importlib import resources

import mujoco
import numpy as np

from sim.core.coverage import SeveralCoverages, VoxelCoverage
from sim.core.registry import TASKS
from sim.core.spec import Part, tile
from sim.core.subspaces import grid_coverage
from sim.tasks.arm import END_EFFECTOR, ArmTask, axes, draw_pose, is_free
from sim.tasks.arm_reach import VOXEL_M, reachable_voxels
from sim.tasks.mujoco_task import Starts, draw_starts

MARK = (0.20, 0.12)
AT_MARK_M = 0.03
FIELD_M = ((0.10, -0.24), (0.34, 0.24))  # lowest and highest x and y of its centre
SQUARE_M = 0.02
NEAR_M = 0.08  # the puck starts this far from the mark or more
REST_PLACE = (0.22, -0.02)
START_RADIUS_M = (0.18, 0.26)
START_ANGLE = (-0.8, 0.25)  # [rad] to the left of straight ahead
BEHIND_M = 0.045  # the puck's radius, a finger's, and a little more
PUSH_HEIGHT_M = 0.015
DROP_M = 5e-4  # above the desk, so that a start state has no contact
PUCK = slice(22, 25)


@cache
def load_puck_model() -> mujoco.MjModel:
    """Returns the compiled world: the desk arm's, with the puck and the mark."""
    return mujoco.MjModel.from_xml_string(
        _asset("desk_arm_puck.xml").decode(), {"desk_arm.xml": _asset("desk_arm.xml")}
    )


def _asset(name: str) -> bytes:
    return resources.files("sim").joinpath(f"assets/{name}").read_bytes()


@TASKS.register("arm-puck")
class PuckTask(ArmTask):
    """The arm and the puck without a reward. The arm starts at rest; an episode lasts 4 s."""

    name = "arm-puck"
    novelty_fields = ("end_effector", "puck.x", "puck.y", "puck_vel.x", "puck_vel.y")

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The compiled world, one for both tasks."""
        return load_puck_model()

    @property
    def starts(self) -> Starts:
        """Poses near REST_POSE, the puck near REST_PLACE."""
        return puck_starts("rest")

    @property
    def restarts(self) -> Starts:
        """Poses from all over the workspace, the puck anywhere to the right of the mark."""
        return puck_starts("random")

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the arm's five fields and the puck's three."""
        low, high = np.c_[FIELD_M, (0.0, 0.1)]
        speed = np.full(3, 1.0)
        apart = np.full(3, 0.4)
        return (
            *super().obs_parts(),
            Part("puck", "m", low, high, entries=axes("puck")),
            Part("puck_vel", "m/s", -speed, speed, entries=axes("puck_vel")),
            Part("hand_to_puck", "m", -apart, apart, entries=axes("hand_to_puck")),
        )

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, 31) float32 of sensor readings (n, 22) and commands (n, 6)."""
        arm = super().observe(sensor[:, :16], command)
        puck = sensor[:, 16:].astype(np.float32)
        return np.concatenate([arm, puck, puck[:, :3] - arm[:, END_EFFECTOR]], axis=1)

    def success(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) bool: the puck is at the mark."""
        return to_mark(obs) < AT_MARK_M

    def new_coverage(self) -> SeveralCoverages:
        """Returns a counter of the field's squares of SQUARE_M where the puck was.

        It also counts the voxels that the end effector passes through, as the arm's does.
        """
        low, high = np.array(FIELD_M)
        n_x, n_y = np.rint((high - low) / SQUARE_M).astype(int).tolist()
        places = {"puck.x": n_x, "puck.y": n_y}
        return SeveralCoverages(
            {
                "coverage_puck": grid_coverage(tile(*self.obs_parts()), places),
                "coverage_hand": VoxelCoverage(END_EFFECTOR, VOXEL_M, reachable_voxels),
            }
        )

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, 10): the arm's, the button's travel, the puck's place."""
        return np.concatenate([super().qpos(obs), obs[:, PUCK]], 1).astype(np.float64)


@TASKS.register("arm-push")
class PushTask(PuckTask):
    """Push the puck to the mark, from a random pose and a random place of the puck."""

    name = "arm-push"
    episode_steps = 400
    success_when = "end"

    @property
    def starts(self) -> Starts:
        """Poses from all over the workspace, the puck anywhere to the right of the mark."""
        return puck_starts("random")

    def reward(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) in [0, 1]: up to .75 for the puck's place, .25 for a hand behind it.

        The puck's place pays .4 (1 - d / 35 cm) + .35 exp(-d / 3 cm) at distance d to the mark. A
        hand in a place to push from pays .25 exp(-h / 10 cm) at distance h to it: without that, a
        learner hardly ever meets the puck.
        """
        d = to_mark(obs)
        far = np.maximum(0.0, 1 - d / 0.35)
        near = np.exp(-d / 0.03)
        hand = np.exp(-np.linalg.norm(obs[:, END_EFFECTOR] - behind(obs), axis=1) / 0.10)
        return (0.4 * far + 0.35 * near + 0.25 * hand).astype(np.float32)


def to_mark(obs: np.ndarray) -> np.ndarray:
    """Returns (n,) the puck's distance to the mark on the desk [m], its height left out."""
    return np.linalg.norm(np.asarray(MARK, np.float32) - obs[:, PUCK][:, :2], axis=1)


def behind(obs: np.ndarray) -> np.ndarray:
    """Returns (n, 3) the place to push from: BEHIND_M behind the puck, seen from the mark [m].

    It moves to the puck's middle as the puck comes to the mark, where there is no behind.
    """
    place = obs[:, PUCK][:, :2]
    way = np.asarray(MARK, np.float32) - place
    length = np.linalg.norm(way, axis=1, keepdims=True)
    height = np.full((len(obs), 1), PUSH_HEIGHT_M, obs.dtype)
    return np.concatenate([place - BEHIND_M * way / (length + 0.01), height], axis=1)


@cache
def puck_starts(kind: str) -> Starts:
    """Returns start states (m, state) and sensor readings (m, 22).

    Args:
        kind: Of the arm's pose, as for `sim.tasks.arm.poses`, wherever the button is.
    """
    return draw_starts(load_puck_model(), partial(_place, kind))


def _place(kind: str, data: mujoco.MjData, rng: np.random.Generator) -> bool:
    """Draws a pose and a place of the puck, and returns whether they are a start state."""
    place = _draw_place(kind, rng)
    data.qpos[:6] = draw_pose(kind, rng)
    data.qpos[7:10] = (*place, DROP_M)
    mujoco.mj_forward(load_puck_model(), data)
    return is_free(data) and bool(np.linalg.norm(place - MARK) >= NEAR_M)


def _draw_place(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Returns a place of the puck (2,): of all start places for `random`, else near REST_PLACE."""
    if kind != "random":
        return REST_PLACE + rng.uniform(-0.01, 0.01, 2)
    angle = rng.uniform(*START_ANGLE)
    return rng.uniform(*START_RADIUS_M) * np.array([np.cos(angle), np.sin(angle)])
