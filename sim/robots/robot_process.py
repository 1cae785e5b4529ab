"""The simulated robot's own process: MuJoCo in real time, `python -m sim.robots.robot_process ARGS` (JSON; see `sim.robots.sim_robot`).

`ArmCore` is the arm without a clock, `run` steps it on absolute deadlines, and two `Ring`s in a shared file connect
it with the robot's driver: requests come in, readings go out.
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

from sim.tasks import arm

SPIN_NS = 100_000  # watched instead of slept before each step, since sleepers wake late
PERIOD_NS = round(arm.CONTROL_PERIOD_S / arm.N_SUBSTEPS * 1e9)  # one physics step
N_JOINTS = len(arm.JOINTS)
# What the driver wants: the target sent at `sent_ns` (0: none yet) in the episode `episode`, which starts from `seed`.
REQUEST = np.dtype(
    [("sent_ns", "i8"), ("episode", "i8"), ("seed", "i8"), ("target", "f8", N_JOINTS)]
)
# What a physics step measured at `stamp_ns`; `command` is the last target that arrived, `late_ns` how late it ran.
COUNTS = ("stamp_ns", "n_steps", "n_overruns", "late_ns", "max_late_ns", "episode", "success")
READING = np.dtype(
    [*((name, "i8") for name in COUNTS), ("command", "f8", N_JOINTS), ("sensor", "f8", 16)]
)


class Ring:
    """The newest of a stream of rows, from one writer to any reader in shared memory; no locks, no waiting.

    Rows go round four slots, and a counter names the newest. Each row carries its number and a checksum, so a reader
    that meets a row being overwritten (or, on processors that reorder stores, not there yet) knows it and looks again;
    a writer that is stopped half-way holds nobody up.
    """

    N_SLOTS = 4

    def __init__(self, memory: mmap.mmap, start: int, dtype: np.dtype) -> None:
        self._memory, self._start, self._dtype = memory, start, dtype
        self._size = dtype.itemsize + 12

    @classmethod
    def n_bytes(cls, dtype: np.dtype) -> int:
        """Returns the memory that a ring takes; a multiple of 8."""
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
        # not struct.pack_into, which writes zeros first: a reader would see a ring that was never written to
        self._memory[self._start : self._start + 8] = struct.pack("q", number)

    def read(self) -> np.ndarray | None:
        """Returns the newest row (), or None before the first.

        Raises:
            RuntimeError: no row was whole in 10,000 looks; somebody else writes into the memory.
        """
        for _ in range(10_000):
            number = self._newest()
            if number == 0:
                return None
            raw = self._memory[self._slot(number)]
            body = raw[:-4]
            if body[:8] == struct.pack("q", number) and raw[-4:] == struct.pack(
                "I", zlib.crc32(body)
            ):
                return np.frombuffer(body, self._dtype, 1, 8)[0]
        raise RuntimeError(
            "the robot's shared memory is damaged: no whole row in 10,000 looks; connect() again"
        )


def rings(memory: mmap.mmap) -> tuple[Ring, Ring]:
    """Returns the rings of requests and readings in `memory` of `MEMORY_BYTES`."""
    return Ring(memory, 0, REQUEST), Ring(memory, Ring.n_bytes(REQUEST), READING)


MEMORY_BYTES = Ring.n_bytes(REQUEST) + Ring.n_bytes(READING)


class ArmCore:
    """The arm, its delayed commands and its task, one physics step at a time and without a clock.

    Args:
        task: one of `arm.task_names()`.
        delay_ns: from sending a target to its effect [ns].
        seed: of the first pose: resting for the task `arm`, random for the others, as in `arm.make_vec`.
    """

    def __init__(self, task: str, delay_ns: int = 0, seed: int = 0) -> None:
        self.spec, self.model = arm.task_spec(task), arm.load_model()
        self.data, self.reading = mujoco.MjData(self.model), np.zeros((), READING)
        self._delay_ns, self._on_the_way = delay_ns, deque[tuple[int, np.ndarray]]()
        self.start_episode(seed, "rest" if task == "arm" else "random")

    def start_episode(self, seed: int, kind: str = "random") -> None:
        """Puts the arm, at rest, at the pose of `arm.poses(kind)` that `seed` picks, and commands it to stay."""
        states, sensors = arm.poses(kind)
        chosen = np.random.default_rng(seed).integers(len(states))
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(
            self.model, self.data, states[chosen], mujoco.mjtState.mjSTATE_FULLPHYSICS
        )
        self.data.sensordata[:] = sensors[chosen]
        self.data.ctrl[:] = self.reading["command"] = sensors[chosen][:N_JOINTS]
        self._on_the_way.clear()
        self._read()
        self.reading["success"] = self._success()

    def receive(self, target: np.ndarray, sent_ns: int) -> None:
        """Takes `target` (6,) [rad], sent at `sent_ns`; it has its effect the delay later."""
        self.reading["command"] = target
        self._on_the_way.append((sent_ns + self._delay_ns, target))

    def step(self, now_ns: int) -> None:
        """Simulates the 2 ms that begin at `now_ns`; the reading is that of their begin, as MuJoCo's sensors are."""
        while self._on_the_way and self._on_the_way[0][0] <= now_ns:
            self.data.ctrl[:] = self._on_the_way.popleft()[1]
        mujoco.mj_step(self.model, self.data)
        self._read()
        self.reading["stamp_ns"] = now_ns
        self.reading["n_steps"] += 1
        before = self.reading["success"] if self.spec.success_when == "any" else 0
        self.reading["success"] = before | self._success()

    def obs(self) -> np.ndarray:
        """Returns the observation (22,) float32 of the last physics step."""
        return arm.observe(self.reading["sensor"][None], self.reading["command"][None])[0]

    def _read(self) -> None:
        self.reading["sensor"] = self.data.sensordata

    def _success(self) -> int:
        return int(self.spec.success(self.obs()[None])[0]) if self.spec.success else 0


def handle(core: ArmCore, request: np.ndarray, last_sent_ns: int) -> int:
    """Gives `core` what is new in `request`; returns the time of the newest target [ns]."""
    if request["episode"] != core.reading["episode"]:
        core.start_episode(int(request["seed"]))
        core.reading["episode"] = request["episode"]
    if request["sent_ns"] > last_sent_ns:
        core.receive(request["target"], int(request["sent_ns"]))
    return int(request["sent_ns"])


def run(core: ArmCore, requests: Ring, readings: Ring, alive: Callable[[], bool]) -> None:
    """Steps `core` in real time until `alive` says no: physics step k at the start plus k periods, whatever happened.

    A late step shifts no other: the arm catches up. A step that begins after the next one's deadline is an overrun.
    """
    due_ns, last_sent_ns = time.monotonic_ns() + PERIOD_NS, 0
    while alive():
        late_ns = _wait_until(due_ns) - due_ns
        request = requests.read()
        if request is not None:
            last_sent_ns = handle(core, request, last_sent_ns)
        core.step(due_ns)
        reading = core.reading
        reading["late_ns"], reading["max_late_ns"] = (
            late_ns,
            max(late_ns, int(reading["max_late_ns"])),
        )
        reading["n_overruns"] += late_ns > PERIOD_NS
        readings.write(reading)
        due_ns += PERIOD_NS


def _wait_until(deadline_ns: int) -> int:
    """Returns the time [ns] once it is `deadline_ns` or later; sleeps, then watches the clock."""
    now_ns = time.monotonic_ns()
    while now_ns < deadline_ns:
        if deadline_ns - now_ns > SPIN_NS:
            time.sleep((deadline_ns - now_ns - SPIN_NS) * 1e-9)
        now_ns = time.monotonic_ns()
    return now_ns


def _die_with_stdin() -> None:
    """Ends this process when the driver closes the pipe, or dies, which closes it too."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def main(args: dict) -> None:
    """Runs the robot of `args`: the shared file `path`, `task`, `delay_s`, `seed`, `parent_pid`."""
    threading.Thread(target=_die_with_stdin, daemon=True).start()
    with open(args["path"], "r+b") as file:
        memory = mmap.mmap(file.fileno(), MEMORY_BYTES)
    core = ArmCore(args["task"], round(args["delay_s"] * 1e9), args["seed"])
    arm.poses("random")  # now rather than inside a timed step
    gc.disable()
    watched = (
        os.getppid() == args["parent_pid"]
    )  # a forked sibling may keep the pipe open after the driver's death
    run(core, *rings(memory), lambda: not watched or os.getppid() == args["parent_pid"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
