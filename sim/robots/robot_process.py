"""The simulated robot's own process, which runs MuJoCo in real time.

It is `python -m sim.robots.robot_process ARGS`, with ARGS in JSON. `RobotCore` is the robot without
a clock, `run` steps it on absolute deadlines, and two `Ring`s in a shared file connect it with the
robot's driver (`sim.robots.sim_robot`): requests come in, readings go out.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable

import mujoco
import numpy as np

from policy_server.contract.clock import wait_until
from sim.core.readings import n_readings, reading
from sim.core.registry import make_task
from sim.tasks.mujoco_task import FULL_STATE, MujocoTask, Starts

SPIN_NS = 100_000  # watched instead of slept before each step, since sleepers wake late


class Ring:
    """The newest row of one writer, for any number of readers in shared memory, without locks.

    Rows go round four slots, and a counter names the newest. Each row carries its number and a
    checksum. A reader that meets a row being overwritten (or, on processors that reorder stores,
    not there yet) sees that and looks again. A writer that is stopped half-way does not stop its
    readers.

    Args:
        memory: The shared memory.
        start: Where the ring begins [bytes].
        dtype: Type of a row.
    """

    N_SLOTS = 4

    def __init__(self, memory: mmap.mmap, start: int, dtype: np.dtype) -> None:
        self._memory = memory
        self._start = start
        self._dtype = dtype
        self._size = dtype.itemsize + 12

    @classmethod
    def n_bytes(cls, dtype: np.dtype) -> int:
        """Returns the memory that a ring takes [bytes], a multiple of 8."""
        return 8 + -(-cls.N_SLOTS * (dtype.itemsize + 12) // 8) * 8

    def _slot(self, number: int) -> slice:
        begin = self._start + 8 + number % self.N_SLOTS * self._size
        return slice(begin, begin + self._size)

    def _newest(self) -> int:
        return struct.unpack_from("q", self._memory, self._start)[0]

    def write(self, row: np.ndarray) -> None:
        """Publishes `row`, of the ring's dtype."""
        number = self._newest() + 1
        body = struct.pack("q", number) + row.tobytes()
        self._memory[self._slot(number)] = body + struct.pack("I", zlib.crc32(body))
        # Not struct.pack_into, which writes zeros first: a reader would see a ring never written
        # to.
        self._memory[self._start : self._start + 8] = struct.pack("q", number)

    def read(self) -> np.ndarray | None:
        """Returns the newest row (), or None before the first.

        Raises:
            RuntimeError: No row was whole in 10,000 looks: another process writes into the memory.
        """
        for _ in range(10_000):
            number = self._newest()
            if number == 0:
                return None
            raw = self._memory[self._slot(number)]
            body = raw[:-4]
            checksum = struct.pack("I", zlib.crc32(body))
            if body[:8] == struct.pack("q", number) and raw[-4:] == checksum:
                return np.frombuffer(body, self._dtype, 1, 8)[0]
        raise RuntimeError(
            "the robot's shared memory is damaged: no whole row in 10,000 looks; connect() again"
        )


class Layout:
    """The rows that a robot and its driver exchange, and their place in shared memory.

    Args:
        n_commands: Numbers in a command.
        n_sensors: Numbers in a reading of the world.

    Attributes:
        request: What the driver wants: the target sent at `sent_ns` (0: none yet) in the episode
            `episode`, which starts from `seed`.
        reading: What the physics step at `stamp_ns` measured. `command` is the last target that
            arrived, `late_ns` says how late the step ran.
        n_bytes: Size of the memory.
    """

    COUNTS = ("stamp_ns", "n_steps", "n_overruns", "late_ns", "max_late_ns", "episode", "success")

    def __init__(self, n_commands: int, n_sensors: int) -> None:
        counters = [("sent_ns", "i8"), ("episode", "i8"), ("seed", "i8")]
        self.request = np.dtype([*counters, ("target", "f8", n_commands)])
        counts = [(name, "i8") for name in self.COUNTS]
        vectors = [("command", "f8", n_commands), ("sensor", "f8", n_sensors)]
        self.reading = np.dtype([*counts, *vectors])
        self.n_bytes = Ring.n_bytes(self.request) + Ring.n_bytes(self.reading)

    @classmethod
    def of(cls, task: MujocoTask) -> Layout:
        """Returns the layout of a task's robot."""
        return cls(task.model.nu, n_readings(task.model))

    def rings(self, memory: mmap.mmap) -> tuple[Ring, Ring]:
        """Returns the rings of requests and readings in `memory` of `n_bytes`."""
        readings_start = Ring.n_bytes(self.request)
        return Ring(memory, 0, self.request), Ring(memory, readings_start, self.reading)


class RobotCore:
    """A robot, its delayed commands and its task, one physics step at a time and without a clock.

    Args:
        task: The MuJoCo task.
        delay_ns: From sending a target to its effect [ns].
        seed: Picks the first start state of `task.starts`.

    Attributes:
        period_ns: Time of one physics step [ns].
        reading: The newest row of the task's `Layout.reading`.
    """

    def __init__(self, task: MujocoTask, delay_ns: int = 0, seed: int = 0) -> None:
        self.task = task
        self.data = mujoco.MjData(task.model)
        self.period_ns = round(task.model.opt.timestep * 1e9)
        self.reading = np.zeros((), Layout.of(task).reading)
        self._delay_ns = delay_ns
        self._on_the_way = deque[tuple[int, np.ndarray]]()
        self._begin(task.starts, seed)

    def start_episode(self, seed: int) -> None:
        """Puts the robot into the state of `task.restarts` that `seed` picks. It stays there."""
        self._begin(self.task.restarts, seed)

    def _begin(self, starts: Starts, seed: int) -> None:
        states, sensors = starts
        chosen = np.random.default_rng(seed).integers(len(states))
        mujoco.mj_resetData(self.task.model, self.data)
        mujoco.mj_setState(self.task.model, self.data, states[chosen], FULL_STATE)
        command = self.task.start_command(sensors[chosen][None])[0]
        self.data.sensordata[:] = sensors[chosen][: self.task.model.nsensordata]
        self.data.ctrl[:] = command
        self.reading["command"] = command
        self._on_the_way.clear()
        self._read()
        self.reading["success"] = self._success()

    def receive(self, target: np.ndarray, sent_ns: int) -> None:
        """Takes `target` (nu,), sent at `sent_ns`; it takes effect after the delay."""
        self.reading["command"] = target
        self._on_the_way.append((sent_ns + self._delay_ns, target))

    def step(self, now_ns: int) -> None:
        """Simulates the physics step that begins at `now_ns`.

        The reading is that of the step's beginning, as MuJoCo's sensors are.
        """
        while self._on_the_way and self._on_the_way[0][0] <= now_ns:
            self.data.ctrl[:] = self._on_the_way.popleft()[1]
        mujoco.mj_step(self.task.model, self.data)
        self._read()
        self.reading["stamp_ns"] = now_ns
        self.reading["n_steps"] += 1
        before = self.reading["success"] if self.task.success_when == "any" else 0
        self.reading["success"] = before | self._success()

    def obs(self) -> np.ndarray:
        """Returns the observation (obs_dim,) float32 of the last physics step."""
        return self.task.observe(self.reading["sensor"][None], self.reading["command"][None])[0]

    def _read(self) -> None:
        self.reading["sensor"] = reading(self.data)

    def _success(self) -> int:
        judge = self.task.success
        return int(judge(self.obs()[None])[0]) if judge else 0


def handle(core: RobotCore, request: np.ndarray, last_sent_ns: int) -> int:
    """Gives `core` what is new in a request; returns the time of the newest target [ns].

    Args:
        core: The robot.
        request: A row of `Layout.request`.
        last_sent_ns: Time of the newest target before [ns].
    """
    if request["episode"] != core.reading["episode"]:
        core.start_episode(int(request["seed"]))
        core.reading["episode"] = request["episode"]
    if request["sent_ns"] > last_sent_ns:
        core.receive(request["target"], int(request["sent_ns"]))
    return int(request["sent_ns"])


def run(core: RobotCore, requests: Ring, readings: Ring, alive: Callable[[], bool]) -> None:
    """Steps `core` in real time: physics step k at the start plus k periods.

    A late step shifts no other: the robot catches up. A step that begins after the next one's
    deadline is an overrun.

    Args:
        core: The robot.
        requests: What the driver wants.
        readings: Where each step's reading goes.
        alive: Says whether to go on.
    """
    period_ns = core.period_ns
    due_ns = time.monotonic_ns() + period_ns
    last_sent_ns = 0
    while alive():
        late_ns = wait_until(due_ns, SPIN_NS) - due_ns
        request = requests.read()
        if request is not None:
            last_sent_ns = handle(core, request, last_sent_ns)
        core.step(due_ns)
        reading = core.reading
        reading["late_ns"] = late_ns
        reading["max_late_ns"] = max(late_ns, int(reading["max_late_ns"]))
        reading["n_overruns"] += late_ns > period_ns
        readings.write(reading)
        due_ns += period_ns


def _die_with_stdin() -> None:
    """Ends this process when the driver closes the pipe. A driver that dies closes it too."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def main(args: dict) -> None:
    """Runs the robot of `args`: the shared file `path`, `task`, `delay_s`, `seed`, `parent_pid`."""
    threading.Thread(target=_die_with_stdin, daemon=True).start()
    task = make_task(args["task"])
    assert isinstance(task, MujocoTask)  # the driver has checked it
    layout = Layout.of(task)
    with open(args["path"], "r+b") as file:
        memory = mmap.mmap(file.fileno(), layout.n_bytes)
    core = RobotCore(task, round(args["delay_s"] * 1e9), args["seed"])
    _ = task.restarts  # drawn now rather than inside a timed step
    gc.disable()
    # A forked sibling may keep the pipe open after the driver's death, so the parent is watched
    # too.
    watched = os.getppid() == args["parent_pid"]
    run(core, *layout.rings(memory), lambda: not watched or os.getppid() == args["parent_pid"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
