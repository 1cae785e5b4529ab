"""Simulated worlds: a desk arm, mazes, any Gymnasium environment, and robots in real time.

    env = sim.make_vec("arm-press", n_envs=64, seed=0)   # a gymnasium VectorEnv on all cores
    sim.task_spec("arm-press")                           # fields, units, limits, action map, reward
    sim.task_names()                                     # every registered task
    sim.evaluate(act, "arm-press", n_episodes=100, seed=0)
    sim.SimRobot("arm-press", delay_s=0.03)              # in real time, with LeRobot's methods

To add a task, subclass `MujocoTask` and register it in `TASKS`, or name it as `package.module:Task`
(docs/your_task.md). `Maze` has the dynamics and the coverage of the mazes.

Names load when they are first used. Nothing here imports torch or zmq.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policy_server.contract.doors.lazy import lazy_names

if TYPE_CHECKING:
    from sim.core.action_map import ActionMap
    from sim.core.coverage import BinCoverage, Coverage, SeveralCoverages, VoxelCoverage
    from sim.core.evaluate import Evaluation, evaluate, evaluate_commands
    from sim.core.hold import Hold
    from sim.core.registry import TASKS, Task, make_task, make_vec, task_names, task_spec
    from sim.core.spec import Part, TaskSpec, tile
    from sim.core.subspaces import grid_coverage, pattern_coverage
    from sim.core.vec import SameStepVectorEnv, TaskVectorEnv
    from sim.robots.sim_robot import SimRobot, SimRobotError
    from sim.tasks.mazes import Maze
    from sim.tasks.mujoco_task import MujocoTask

__all__ = [
    "TASKS",
    "ActionMap",
    "BinCoverage",
    "Coverage",
    "Evaluation",
    "Hold",
    "Maze",
    "MujocoTask",
    "Part",
    "SameStepVectorEnv",
    "SeveralCoverages",
    "SimRobot",
    "SimRobotError",
    "Task",
    "TaskSpec",
    "TaskVectorEnv",
    "VoxelCoverage",
    "evaluate",
    "evaluate_commands",
    "grid_coverage",
    "make_task",
    "make_vec",
    "pattern_coverage",
    "task_names",
    "task_spec",
    "tile",
]

__getattr__, __dir__ = lazy_names(__name__)
