"""The ant in gymnasium-robotics' mazes: the tasks `ant-maze-umaze`, `ant-maze-large-diverse-g` ..

109 numbers in the order of `gym:AntMaze_..-v5`: the ant (105), the goal (2) and the torso's place
(2). 8 torques. Model, mazes, goals, starts and the reward are gymnasium-robotics' own; so are
positions and velocities, step by step. The contact forces (78) are those at the end of the control
step. Its own are those of RK4's last stage, just before: 1 in 50 numbers differs by more than .01.

In a `diverse-g` maze every episode starts in one cell. In the others it starts anywhere, so that a
learner that does not move covers the maze too.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from functools import cached_property, partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from sim.core.coverage import BinCoverage, SeveralCoverages
from sim.core.registry import TASKS
from sim.core.spec import Part, tile
from sim.core.subspaces import grid_coverage
from sim.tasks.mujoco_task import MujocoTask

CELL_M = 4.0  # edge of a maze's cell
WALL_CELLS = 0.5  # height of a wall, in cells
NOISE_M = 1.0  # goals and starts lie this far from the middle of their cell, at most, in x and y
APART_M = 2.0  # least distance from the goal to the middle of the start's cell
GOAL_RADIUS_M = 0.45
BIN_M = 1.0  # edge of a square of the coverage
N_ANT = 15  # positions of the ant; the goal's x and y follow
JOINTS = tuple(f"{joint}_{leg}" for leg in range(1, 5) for joint in ("hip", "ankle"))
GOAL = slice(105, 107)  # columns of the obs
PLACE = slice(107, 109)
BODY_FORCES = 13
SENSOR = mujoco.mjtSensor
OBJECT = mujoco.mjtObj
WRENCH = 1 << 1 | 1 << 2 | 1 << 4  # a contact's force, torque and position
NET = 3  # of all contacts of a body


class AntMaze(MujocoTask):
    """An ant that is paid 1 in each control step in which it is within 45 cm of the goal.

    Goal and start are drawn anew in each episode. The goal stands where two sliding joints are that
    nothing moves, so that it is part of the state.

    Args:
        name: Name of the task.
        maze: Name of the map in `gymnasium_robotics.envs.maze.maps`.
        episode_steps: Control steps in an episode.
    """

    control_period_s = 0.05
    action_unit = "1"
    domain = "ant-maze"
    camera = "track"
    sensors_at_end = "all"
    novelty_fields = ("achieved_goal",)

    def __init__(self, name: str, maze: str, episode_steps: int) -> None:
        self.name = name
        self.episode_steps = episode_steps
        self._map_name = maze

    @cached_property
    def _maze(self) -> tuple[Any, mujoco.MjSpec]:
        """gymnasium-robotics' Maze, and the world of ant and walls."""
        with redirect_stderr(StringIO()):  # it prints a notice about another environment
            from gymnasium_robotics.envs.maze import maps
            from gymnasium_robotics.envs.maze.maze_v4 import Maze

        package = find_spec("gymnasium")
        assert package and package.origin
        ant = Path(package.origin).parent / "envs/mujoco/assets/ant.xml"
        grid = vars(maps)[self._map_name]
        maze, written = Maze.make_maze(str(ant), grid, CELL_M, WALL_CELLS)
        try:
            return maze, mujoco.MjSpec.from_file(written)
        finally:
            Path(written).unlink()

    @cached_property
    def model(self) -> mujoco.MjModel:
        """Ant, walls and goal, with sensors for what is observed."""
        _, spec = self._maze
        _add_goal(spec)
        _add_sensors(spec)
        for actuator in spec.actuators:
            actuator.name = actuator.target
        return spec.compile()

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the fields of the observation."""
        maze, _ = self._maze
        one = np.ones(6 * BODY_FORCES)
        free = np.full(8, np.inf)
        half = np.array([maze.map_width, maze.map_length]) * CELL_M / 2
        low, high = np.array([self.model.joint(name).range for name in JOINTS]).T
        speeds = tuple(f"{name}.vel" for name in JOINTS)
        return (
            Part("torso_height", "m", 0.0, 2.0),
            Part("torso_orientation", "1", -one[:4], one[:4]),
            Part("joint_pos", "rad", low, high, entries=tuple(f"{name}.pos" for name in JOINTS)),
            Part("torso_velocity", "m/s", -free[:3], np.inf),
            Part("torso_angular_velocity", "rad/s", -free[:3], np.inf),
            Part("joint_velocity", "rad/s", -free, np.inf, entries=speeds),
            Part("contact_forces", "1", -one, one),
            Part("desired_goal", "m", -half, half, entries=("x", "y")),
            Part("achieved_goal", "m", -half, half, entries=("x", "y")),
        )

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, 109) float32 of readings (n, n_readings)."""
        torso, ant, goal, com, contacts = np.split(sensor, (3, 29, 32, 35), axis=1)
        force, torque, place = np.split(contacts.reshape(len(sensor), BODY_FORCES, 9), 3, axis=2)
        torque = torque + np.cross(place - com[:, None], force)  # about the centre of mass
        forces = -np.concatenate([torque, force], axis=2).reshape(len(sensor), -1)
        parts = [torso[:, 2:], ant, np.clip(forces, -1, 1), goal[:, :2], torso[:, :2]]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Draws a goal, and a start in a cell that is not the goal's."""
        maze, _ = self._maze
        goals = maze.unique_goal_locations
        starts = maze.unique_reset_locations
        goal = goals[rng.integers(len(goals))] + rng.uniform(-NOISE_M, NOISE_M, 2)
        start = starts[rng.integers(len(starts))]
        data.qpos[N_ANT:] = goal
        data.qpos[:2] = start + rng.uniform(-NOISE_M, NOISE_M, 2)
        mujoco.mj_forward(self.model, data)
        return bool(np.linalg.norm(start - goal) > APART_M)

    def reward(self, obs: np.ndarray) -> np.ndarray:
        """Returns 1.0 (n,) where the torso is within GOAL_RADIUS_M of the goal, else 0.0."""
        return self.success(obs).astype(np.float64)

    def success(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) bool: the torso is within GOAL_RADIUS_M of the goal."""
        return np.linalg.norm(obs[:, GOAL] - obs[:, PLACE], axis=1) <= GOAL_RADIUS_M

    def new_coverage(self) -> SeveralCoverages:
        """Returns a counter of the floor's squares of 1 m, and of bins of the joints."""
        bends = {f"{name}.pos": 5 for name in JOINTS}
        joints = grid_coverage(tile(*self.obs_parts()), bends)
        return SeveralCoverages({"coverage_place": self._squares(), "coverage_joints": joints})

    def _squares(self) -> BinCoverage:
        """Returns a counter of the squares that the torso passes through, of all on the floor."""
        maze, _ = self._maze
        shape = np.array([maze.map_width, maze.map_length]) * int(CELL_M / BIN_M)
        cells = np.array([[cell != 1 for cell in row] for row in maze.maze_map])

        def bin_index(obs: np.ndarray) -> np.ndarray:
            place = np.floor(obs[:, PLACE] / BIN_M + shape / 2).astype(int)
            x, y = np.clip(place, 0, shape - 1).T
            return x * shape[1] + y

        return BinCoverage(bin_index, int(shape.prod()), cells.sum() * (CELL_M / BIN_M) ** 2)

    def qpos(self, obs: np.ndarray) -> np.ndarray:
        """Returns joint positions (n, 17), the goal's last."""
        return np.concatenate([obs[:, PLACE], obs[:, :13], obs[:, GOAL]], 1).astype(np.float64)


def _add_goal(spec: mujoco.MjSpec) -> None:
    """Puts the goal's site on a body that slides without friction, weight or contact."""
    spec.delete(spec.site("target"))
    goal = spec.worldbody.add_body(name="goal", mass=1, inertia=(1, 1, 1), explicitinertial=True)
    for axis in ((1, 0, 0), (0, 1, 0)):
        joint = goal.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
        joint.limited = mujoco.mjtLimited.mjLIMITED_FALSE
        joint.damping = np.zeros(3)
    goal.add_site(name="goal", pos=(0, 0, 1), size=(0.8, 0.8, 0.8), rgba=(1, 0, 0, 0.7))


def _add_sensors(spec: mujoco.MjSpec) -> None:
    """Adds sensors: the torso's place (3), the ant (26), the goal (3), contacts (3 + 117)."""
    torso = spec.body("torso")
    torso.add_site(name="torso")
    seen = [
        (SENSOR.mjSENS_FRAMEPOS, OBJECT.mjOBJ_XBODY, ("torso",)),
        (SENSOR.mjSENS_FRAMEQUAT, OBJECT.mjOBJ_XBODY, ("torso",)),
        (SENSOR.mjSENS_JOINTPOS, OBJECT.mjOBJ_JOINT, JOINTS),
        (SENSOR.mjSENS_FRAMELINVEL, OBJECT.mjOBJ_XBODY, ("torso",)),
        (SENSOR.mjSENS_GYRO, OBJECT.mjOBJ_SITE, ("torso",)),
        (SENSOR.mjSENS_JOINTVEL, OBJECT.mjOBJ_JOINT, JOINTS),
        (SENSOR.mjSENS_FRAMEPOS, OBJECT.mjOBJ_SITE, ("goal",)),
        (SENSOR.mjSENS_SUBTREECOM, OBJECT.mjOBJ_BODY, ("torso",)),
    ]
    for kind, of, names in seen:
        for name in names:
            spec.add_sensor(type=kind, objtype=of, objname=name)
    for part, body in enumerate([torso, *torso.find_all("body")]):
        body.name = body.name or f"part_{part}"
        spec.add_sensor(
            type=SENSOR.mjSENS_CONTACT,
            objtype=OBJECT.mjOBJ_BODY,
            objname=body.name,
            intprm=(WRENCH, NET, 1),
        )


ANT_MAZES = {  # map and control steps in an episode
    "ant-maze-umaze": ("U_MAZE", 700),
    "ant-maze-medium": ("MEDIUM_MAZE", 1000),
    "ant-maze-large": ("LARGE_MAZE", 1000),
    "ant-maze-open-diverse-g": ("OPEN_DIVERSE_G", 700),
    "ant-maze-medium-diverse-g": ("MEDIUM_MAZE_DIVERSE_G", 1000),
    "ant-maze-large-diverse-g": ("LARGE_MAZE_DIVERSE_G", 1000),
}
for _name, _settings in ANT_MAZES.items():
    TASKS.register(_name)(partial(AntMaze, _name, *_settings))
