"""A simulated robot with LeRobot's names: the desk arm, running in real time in a process of its own.

Observation (22 numbers, the order of every arm task): `<joint>.pos` [rad], `<joint>.vel` [rad/s], `<joint>.command`
[rad] (the last target that the driver accepted, whether or not the arm has felt it yet), `end_effector.x|y|z` [m],
`button.travel` [m]. Action (6): `<joint>.target` [rad], kept until the next one: an arm that hears nothing stays.
"""

from __future__ import annotations

import difflib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim.robots.robot_process import MEMORY_BYTES, REQUEST, rings
from sim.tasks import arm

MAX_AGE_S = 0.2  # an older reading is an error; a busy machine may stall the process for 70 ms
START_TIMEOUT_S = 60.0
RESET_TIMEOUT_S = 5.0


class SimRobotError(RuntimeError):
    """The robot is not connected, or its process is dead or stuck; the message says which."""


class SimRobot:
    """The desk arm in real time; for one thread.

    Args:
        task: one of `sim.tasks.arm.task_names()`; it decides the first pose and what `episode_success` means.
        delay_s: time that a target is on its way to the arm [s].
        seed: of the first pose.

    Raises:
        ValueError: unknown task, a delay or seed out of range.
    """

    name = "sim_desk_arm"
    is_calibrated = True

    def __init__(self, task: str = "arm", *, delay_s: float = 0.0, seed: int = 0) -> None:
        if task not in arm.task_names():
            close = difflib.get_close_matches(str(task), arm.task_names(), 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"no simulated robot for task {task!r}.{hint} There are: {', '.join(arm.task_names())}"
            )
        if not 0 <= delay_s <= 10:
            raise ValueError(f"delay_s {delay_s!r}: expected a time in [0, 10] [s]")
        self.task, self.delay_s, self._seed = task, float(delay_s), _seed(seed)
        self._low, self._high = arm.joint_range()
        self._process: subprocess.Popen | None = None

    @property
    def observation_features(self) -> dict[str, type]:
        """Names and types of the observation, in order."""
        joints = [f"{joint}.{what}" for what in ("pos", "vel", "command") for joint in arm.JOINTS]
        return dict.fromkeys(
            [*joints, *(f"end_effector.{axis}" for axis in "xyz"), "button.travel"], float
        )

    @property
    def action_features(self) -> dict[str, type]:
        """Names and types of the action, in order."""
        return dict.fromkeys([f"{joint}.target" for joint in arm.JOINTS], float)

    @property
    def is_connected(self) -> bool:
        """Whether `connect` was called, and `disconnect` not since."""
        return self._process is not None

    def calibrate(self) -> None:
        """Does nothing: the simulated joints are exact."""

    def connect(self) -> None:
        """Starts the process and returns when the arm runs.

        Raises:
            SimRobotError: connected already, or the process did not start.
        """
        if self.is_connected:
            raise SimRobotError(f"{self.name} is connected already; call disconnect() first")
        path = _shared_file()
        try:
            with open(path, "r+b") as file:
                self._memory = mmap.mmap(file.fileno(), MEMORY_BYTES)
            self._requests, self._readings = rings(self._memory)
            self._process = _start(path, self.task, self.delay_s, self._seed)
            self._request = np.zeros((), REQUEST)
            self._wait(lambda: self._readings.read() is not None, START_TIMEOUT_S, "start")
            self._command = self._reading()["command"]
        except BaseException:
            self.disconnect()
            raise
        finally:
            path.unlink()  # both have it open; nothing is left behind, whoever is killed

    def disconnect(self) -> None:
        """Ends the process and waits until it is gone."""
        process, self._process = self._process, None
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
        obs = np.empty(22, np.float32)
        self.read_obs(obs)
        return dict(zip(self.observation_features, obs.tolist(), strict=True))

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Sends targets by name and returns them as accepted: clipped to the joints' ranges.

        Raises:
            ValueError: names missing or unknown, or a value that is not finite.
            SimRobotError: not connected, or the process is dead.
        """
        names = self.action_features
        missing, unknown = (
            [n for n in names if n not in action],
            [n for n in action if n not in names],
        )
        if missing or unknown:
            raise ValueError(
                f"action lacks {missing} and has unknown {unknown}; expected {', '.join(names)}"
            )
        self.write_action(np.array([action[name] for name in names], np.float64))
        return dict(zip(names, self._command.tolist(), strict=True))

    def read_obs(self, out: np.ndarray) -> None:
        """Writes the newest observation into `out` (22,).

        Raises:
            SimRobotError: not connected, or the process is dead or has not measured for MAX_AGE_S.
        """
        out[:] = arm.observe(self._reading()["sensor"][None], self._command[None])[0]

    def write_action(self, target: np.ndarray) -> None:
        """Sends `target` (6,) [rad]; it is clipped to the joints' ranges and kept until the next one.

        Raises:
            ValueError: another shape, or not finite.
            SimRobotError: not connected, or the process is dead.
        """
        target = np.asarray(target, np.float64)
        if target.shape != self._low.shape or not np.isfinite(target).all():
            raise ValueError(
                f"target {target}: expected {len(self._low)} finite numbers [rad]; nothing was sent"
            )
        self._check_alive()
        self._command = np.clip(target, self._low, self._high)
        self._request["target"], self._request["sent_ns"] = self._command, time.monotonic_ns()
        self._requests.write(self._request)

    def position(self) -> np.ndarray:
        """Returns the target (6,) [rad] that the arm was last given, where a limiter must start."""
        self._check_alive()
        return self._command.copy()

    def reset_episode(self, seed: int) -> None:
        """Puts the arm at the random pose that `seed` picks and returns once readings show it; older targets are lost.

        Raises:
            ValueError: `seed` is not a whole number in [0, 2**63).
            SimRobotError: not connected, or the process is dead or stuck.
        """
        seed = _seed(seed)
        self._check_alive()
        self._request["seed"], self._request["sent_ns"] = seed, 0
        self._request["episode"] += 1
        self._requests.write(self._request)
        episode = self._request["episode"]
        self._wait(lambda: self._reading()["episode"] == episode, RESET_TIMEOUT_S, "reset")
        self._command = self._reading()["command"]

    def episode_success(self) -> bool:
        """Returns whether the task succeeded at any physics step of this episode, or does now (`arm-reach-*`)."""
        return bool(self._reading()["success"])

    def stats(self) -> dict[str, float]:
        """Returns the process's physics steps, overruns (a step late by more than 2 ms) and worst lateness [s]."""
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
        """Returns the newest reading, a row of `robot_process.READING`, not older than MAX_AGE_S."""
        process = self._check_alive()
        reading = self._readings.read()
        assert reading is not None  # connect() waited for the first
        age_s = (time.monotonic_ns() - int(reading["stamp_ns"])) * 1e-9
        if age_s > MAX_AGE_S:
            raise SimRobotError(
                f"the newest reading of {self.name} is {age_s:.3f} s old, the limit is {MAX_AGE_S} s: process "
                f"{process.pid} is stopped, or this machine is too busy for real time"
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


def _seed(seed: int) -> int:
    """Returns `seed`; raises ValueError unless it is a whole number in [0, 2**63)."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed!r}: expected a whole number in [0, 2**63)")
    return int(seed)


def _shared_file() -> Path:
    """Returns a new file of MEMORY_BYTES, in memory where the system has such a folder."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    number, path = tempfile.mkstemp(prefix="sim_robot_", dir=folder)
    with os.fdopen(number, "wb") as file:
        file.truncate(MEMORY_BYTES)
    return Path(path)


def _start(path: Path, task: str, delay_s: float, seed: int) -> subprocess.Popen:
    """Returns the started process; it ends when its standard input closes."""
    args = {
        "path": str(path),
        "task": task,
        "delay_s": delay_s,
        "seed": seed,
        "parent_pid": os.getpid(),
    }
    command = [sys.executable, "-m", "sim.robots.robot_process", json.dumps(args)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True
    )  # Ctrl-C is the driver's alone
