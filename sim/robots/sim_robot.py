"""A simulated robot with LeRobot's names: any MuJoCo task, in real time, in a process of its own.

The obs has the task's fields, each number under the name of its entry (`<joint>.pos` [rad], ...). A
command that stands in the obs is the last target that the driver accepted, whether or not the robot
has felt it yet. The action has one number for each actuator, `<actuator>.target`. A target stays
until the next one.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policy_server.contract.doors.options import with_options
from policy_server.contract.field import Field
from sim.core.registry import Task, make_task, task_names
from sim.robots.child import child_environment
from sim.robots.robot_process import Layout
from sim.tasks.mujoco_task import MujocoTask

MAX_AGE_S = 0.2  # an older reading is an error; a busy machine may stall the process for 70 ms
START_TIMEOUT_S = 60.0
RESET_TIMEOUT_S = 5.0


class SimRobotError(RuntimeError):
    """The robot is not connected, or its process is dead or stuck. The message says which."""


class SimRobot:
    """A MuJoCo task in real time, for use by one thread. It is the robot `sim:TASK`.

    Args:
        task: Name of a MuJoCo task. It decides the start states and what `episode_success` means.
        delay_s: Time that a target is on its way to the robot [s].
        seed: Picks the first start state.
        **options: Options of the task.

    Raises:
        ValueError: The task is unknown or has no such options, is no MuJoCo task, or its obs fields
            lack names of their numbers; or `delay_s` or `seed` is out of range.
    """

    is_calibrated = True

    def __init__(
        self, task: str = "arm", *, delay_s: float = 0.0, seed: int = 0, **options: Any
    ) -> None:
        task = with_options(task, options)
        world = _made(task, options)
        if not isinstance(world, MujocoTask):
            raise ValueError(
                f"task {task!r} is no MuJoCo task, so it has no simulated robot; there are: "
                f"{', '.join(_robots())}, and your own as package.module:Task"
            )
        if not 0 <= delay_s <= 10:
            raise ValueError(f"delay_s {delay_s!r}: expected a time in [0, 10] [s]")
        self.task = task
        self.delay_s = float(delay_s)
        self.name = "sim_" + world.model.names.split(b"\0", 1)[0].decode()
        self._world = world
        self._layout = Layout.of(world)
        self._seed = _checked_seed(seed)
        self._low, self._high = world.command_range()
        self._obs_names = _names(task, world.spec.obs)
        self._action_names = _names(task, world.spec.action)
        self._process: subprocess.Popen | None = None

    @property
    def observation_features(self) -> dict[str, type]:
        """Names and types of the observation, in order."""
        return dict.fromkeys(self._obs_names, float)

    @property
    def action_features(self) -> dict[str, type]:
        """Names and types of the action, in order."""
        return dict.fromkeys(self._action_names, float)

    @property
    def is_connected(self) -> bool:
        """Whether the robot is connected."""
        return self._process is not None

    def calibrate(self) -> None:
        """Does nothing: the simulated joints are exact."""

    def connect(self) -> None:
        """Starts the process and returns when the robot runs.

        Raises:
            SimRobotError: It is connected already, or the process did not start.
        """
        if self.is_connected:
            raise SimRobotError(f"{self.name} is connected already; call disconnect() first")
        path = _shared_file(self._layout.n_bytes)
        try:
            with open(path, "r+b") as file:
                self._memory = mmap.mmap(file.fileno(), self._layout.n_bytes)
            self._requests, self._readings = self._layout.rings(self._memory)
            self._process = _start(path, self.task, self.delay_s, self._seed)
            self._request = np.zeros((), self._layout.request)
            self._wait(lambda: self._readings.read() is not None, START_TIMEOUT_S, "start")
            self._command = self._reading()["command"]
        except BaseException:
            self.disconnect()
            raise
        finally:
            path.unlink()  # both processes have it open; no file is left behind

    def disconnect(self) -> None:
        """Ends the process and waits until it is gone."""
        process = self._process
        self._process = None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._memory.close()

    def get_observation(self) -> dict[str, float]:
        """Returns the newest observation by name. Raises SimRobotError as `read_obs` does."""
        obs = np.empty(len(self._obs_names), np.float32)
        self.read_obs(obs)
        return dict(zip(self._obs_names, obs.tolist(), strict=True))

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Sends targets by name and returns them as accepted: clipped to their ranges.

        Raises:
            ValueError: A name is missing or unknown, or a value is not finite.
            SimRobotError: It is not connected, or the process is dead.
        """
        names = self._action_names
        missing = [name for name in names if name not in action]
        unknown = [name for name in action if name not in names]
        if missing or unknown:
            raise ValueError(
                f"action lacks {missing} and has unknown {unknown}; expected {', '.join(names)}"
            )
        self.write_action(np.array([action[name] for name in names], np.float64))
        return dict(zip(names, self._command.tolist(), strict=True))

    def read_obs(self, out: np.ndarray) -> None:
        """Writes the newest observation into `out` (obs_dim,).

        Raises:
            SimRobotError: It is not connected, or the process is dead or has not measured for
                MAX_AGE_S.
        """
        out[:] = self._world.observe(self._reading()["sensor"][None], self._command[None])[0]

    def write_action(self, target: np.ndarray) -> None:
        """Sends `target` (act_dim,), clipped to its ranges. It stays until the next one.

        Raises:
            ValueError: The target has another shape, or is not finite.
            SimRobotError: It is not connected, or the process is dead.
        """
        target = np.asarray(target, np.float64)
        if target.shape != self._low.shape or not np.isfinite(target).all():
            raise ValueError(
                f"target {target}: expected {len(self._low)} finite numbers; nothing was sent"
            )
        self._check_alive()
        self._command = np.clip(target, self._low, self._high)
        self._request["target"] = self._command
        self._request["sent_ns"] = time.monotonic_ns()
        self._requests.write(self._request)

    def position(self) -> np.ndarray:
        """Returns the last target (act_dim,), where a limiter must start."""
        self._check_alive()
        return self._command.copy()

    def reset_episode(self, seed: int) -> None:
        """Puts the robot into the start state that `seed` picks, and returns once readings show it.

        Targets sent before are lost.

        Raises:
            ValueError: `seed` is not a whole number in [0, 2**63).
            SimRobotError: It is not connected, or the process is dead or stuck.
        """
        self._check_alive()
        self._request["seed"] = _checked_seed(seed)
        self._request["sent_ns"] = 0
        self._request["episode"] += 1
        self._requests.write(self._request)
        episode = self._request["episode"]
        self._wait(lambda: self._reading()["episode"] == episode, RESET_TIMEOUT_S, "reset")
        self._command = self._reading()["command"]

    def episode_success(self) -> bool:
        """Returns whether the task has succeeded in this episode.

        A task whose success counts at the end is judged by the newest physics step.
        """
        return bool(self._reading()["success"])

    def stats(self) -> dict[str, float]:
        """Returns the numbers of physics steps and of overruns, and the worst lateness [s].

        An overrun is a physics step that began late by more than its own length.
        """
        reading = self._reading()
        counts = {key: int(reading[key]) for key in ("n_steps", "n_overruns")}
        return {**counts, "max_late_s": float(reading["max_late_ns"] * 1e-9)}

    def _check_alive(self) -> subprocess.Popen:
        if self._process is None:
            raise SimRobotError(f"{self.name} is not connected; call connect() first")
        code = self._process.poll()
        if code is not None:
            how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            raise SimRobotError(
                f"the process of {self.name} is gone ({how}); disconnect() and connect() again"
            )
        return self._process

    def _reading(self) -> np.ndarray:
        """Returns the newest reading, a row of `Layout.reading`, not older than MAX_AGE_S."""
        process = self._check_alive()
        reading = self._readings.read()
        assert reading is not None  # connect() waited for the first
        age_s = (time.monotonic_ns() - int(reading["stamp_ns"])) * 1e-9
        if age_s > MAX_AGE_S:
            raise SimRobotError(
                f"the newest reading of {self.name} is {age_s:.3f} s old, "
                f"the limit is {MAX_AGE_S} s: "
                f"process {process.pid} is stopped, or this machine is too busy for real time"
            )
        return reading

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Returns once `done`. Raises SimRobotError where the process dies or takes longer."""
        until = time.monotonic() + timeout_s
        while not done():
            process = self._check_alive()
            if time.monotonic() > until:
                raise SimRobotError(
                    f"process {process.pid} of {self.name} did not {what} within {timeout_s:g} s"
                )
            time.sleep(0.0005)


def _made(task: str, options: Mapping[str, Any]) -> Task:
    """Returns the task. Raises ValueError where there is none, or it lacks one of the options."""
    try:
        return make_task(task)
    except ValueError as error:
        if not options:
            raise
        problem = f"task {task!r}: {error}; the robot's own options are delay_s and seed"
        raise ValueError(problem) from error


def _robots() -> list[str]:
    """Returns the registered tasks that have a simulated robot."""
    return [n for n in task_names() if "<" not in n and isinstance(make_task(n), MujocoTask)]


def _names(task: str, fields: tuple[Field, ...]) -> tuple[str, ...]:
    """Returns the name of each number of `fields`."""
    names: list[str] = []
    for field in fields:
        entries = field.entry_names()
        if entries is None:
            raise ValueError(
                f"task {task!r}: field {field.name!r} lacks entries; name each of its numbers"
            )
        names += entries
    return tuple(names)


def _checked_seed(seed: int) -> int:
    """Returns `seed`. Raises ValueError unless it is a whole number in [0, 2**63)."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed!r}: expected a whole number in [0, 2**63)")
    return int(seed)


def _shared_file(n_bytes: int) -> Path:
    """Returns a new file of `n_bytes`, in memory where the system has such a folder."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    number, path = tempfile.mkstemp(prefix="sim_robot_", dir=folder)
    with os.fdopen(number, "wb") as file:
        file.truncate(n_bytes)
    return Path(path)


def _start(path: Path, task: str, delay_s: float, seed: int) -> subprocess.Popen:
    """Returns the started process. It ends when its standard input closes."""
    args = {
        "path": str(path),
        "task": task,
        "delay_s": delay_s,
        "seed": seed,
        "parent_pid": os.getpid(),
    }
    command = [sys.executable, "-m", "sim.robots.robot_process", json.dumps(args)]
    # A session of its own: Ctrl-C goes to the driver alone.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, env=child_environment()
    )
