"""The control loop: a policy, served or local, drives a robot on absolute deadlines.

Tick k starts at t0 + k * control_period_s on the monotonic clock, whatever happened before: a late tick
never shifts the ones after it. Where the policy falls silent the robot is told its last safe target, and
after `max_silence_s` the run ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.control.clock import Clock, RealtimeError, quiet, stop_on_signals, wait_until
from policy_server.control.limiter import Intervention, Limiter
from policy_server.control.recorder import ControlReport, Recorder
from policy_server.control.robot_io import RobotError, RobotIO

__all__ = [
    "Clock",
    "ControlConfig",
    "ControlReport",
    "RealtimeError",
    "RobotError",
    "run",
    "wait_until",
]

OnTick = Callable[[int, np.ndarray, np.ndarray], Any]


@dataclass(frozen=True)
class ControlConfig:
    """How a robot is driven.

    Attributes:
        n_ticks: Ticks of the whole run.
        control_period_s: Time between ticks [s]; None for the policy's own.
        act_deadline_s: How long a tick waits for the policy [s]; None for 0.8 of the period.
        max_silence_s: How long the last safe target is held before the run ends as failed [s].
        spin_s: How long to watch the clock before each tick instead of sleeping [s].
        episode_ticks: Ticks of an episode; None for one that lasts the whole run.
        seed: Seed of the first episode's noise and start; the i-th has seed + i.
        start_action: Where the limiter starts, (act_dim,), for a robot that does not know its position.
        realtime: Ask for SCHED_FIFO; the run fails where that is refused.
    """

    n_ticks: int
    control_period_s: float | None = None
    act_deadline_s: float | None = None
    max_silence_s: float = 0.2
    spin_s: float = 200e-6
    episode_ticks: int | None = None
    seed: int = 0
    start_action: tuple[float, ...] | None = None
    realtime: bool = False

    def __post_init__(self):
        """Raises ValueError for the first value out of its range."""
        for name in ("n_ticks", "episode_ticks"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} {value!r}: expected a whole number above 0")
        for name in ("control_period_s", "act_deadline_s", "max_silence_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} {value!r}: expected a time above 0 [s]")
        if not 0 <= self.spin_s < 1:
            raise ValueError(f"spin_s {self.spin_s!r}: expected a time in [0, 1) [s]")


def run(
    robot: Any,
    policy: Any,
    config: ControlConfig,
    on_tick: OnTick | None = None,
    clock: Clock | None = None,
) -> ControlReport:
    """Returns what happened while `policy` drove `robot`.

    However the run ends (done, Ctrl-C, silence, a failing robot), the last safe target is sent once more
    before the robot is disconnected. A failure is in the report's `error`, not raised.

    Args:
        robot: See `robot_io.Robot`.
        policy: `PolicyClient`, `LocalPolicy` or the like: manifest, reset(seed), act(obs, deadline_s=).
        config: How to drive.
        on_tick: Called at the end of each tick as on_tick(tick, obs, target); its time counts as the tick's.
        clock: For tests; None for the machine's monotonic clock.

    Raises:
        RobotError: The robot does not fit the policy.
        RealtimeError: Real-time scheduling was asked for and refused.
        PolicyTimeout, PolicyError: The policy could not even tell its manifest.
    """
    manifest = policy.manifest
    with stop_on_signals() as stop:
        robot.connect()
        try:
            loop = _Loop(
                RobotIO(robot, manifest), policy, config, on_tick, clock or Clock(), stop.is_set
            )
            try:
                with quiet(config.realtime):
                    loop.run(robot)
            finally:
                loop.send_last()
        finally:
            robot.disconnect()
    return loop.recorder.report(loop.limiter.counts)


class _Loop:
    """The state of one run."""

    def __init__(
        self,
        robot_io: RobotIO,
        policy: Any,
        config: ControlConfig,
        on_tick: OnTick | None,
        clock: Clock,
        stop: Callable[[], bool],
    ):
        self._io, self._policy, self._config = robot_io, policy, config
        self._on_tick, self._clock, self._stop = on_tick, clock, stop
        manifest = policy.manifest
        period_s = config.control_period_s or manifest.control_period_s
        self._period_ns = round(period_s * 1e9)
        self._spin_ns = round(config.spin_s * 1e9)
        self._deadline_s = config.act_deadline_s or 0.8 * period_s
        self._n_action_steps = manifest.n_action_steps
        self.limiter = Limiter.from_manifest(manifest, period_s)
        self.recorder = Recorder(config.n_ticks, self._period_ns)
        self._chunk: np.ndarray | None = None
        self._chunk_tick = 0
        self._silent_since_ns: int | None = None

    def run(self, robot: Any) -> None:
        """Drives every episode; records a failure instead of raising it."""
        recorder = self.recorder
        try:
            for index, n_ticks in enumerate(_episodes(self._config)):
                self._start_episode(robot, index)
                if not self._drive(n_ticks):
                    recorder.interrupted = self._stop()
                    return
                if hasattr(robot, "episode_success"):
                    recorder.successes.append(bool(robot.episode_success()))
        except RobotError:
            raise
        except KeyboardInterrupt:
            recorder.interrupted = True
        except (PolicyTimeout, PolicyError) as error:
            recorder.error = f"policy failed between episodes: {error}"
        except (
            Exception
        ) as error:  # whatever the robot raises must still end in its last safe target
            recorder.error = f"robot or callback failed: {type(error).__name__}: {error}"

    def send_last(self) -> None:
        """Tells the robot its last safe target again, where there is one."""
        if self.limiter.last is None:
            return
        try:
            self._io.write(self.limiter.last)
        except Exception as error:
            message = f"could not send the last safe target: {error}"
            self.recorder.error = (
                f"{self.recorder.error}; {message}" if self.recorder.error else message
            )

    def _start_episode(self, robot: Any, index: int) -> None:
        """Resets robot and policy, outside the timed ticks."""
        seed = self._config.seed + index
        if self._config.episode_ticks is not None and hasattr(robot, "reset_episode"):
            robot.reset_episode(seed)
        self._policy.reset(seed)
        if self._config.start_action is None:
            self.limiter.reset(self._io.position())
        elif self.limiter.last is None:
            self.limiter.reset(np.asarray(self._config.start_action))
        self._chunk, self._silent_since_ns = None, None

    def _drive(self, n_ticks: int) -> bool:
        """Returns True once `n_ticks` have passed on the schedule, False where the run must end before."""
        now_ns, recorder, period_ns = self._clock.now_ns, self.recorder, self._period_ns
        start_ns = now_ns() + period_ns
        recorder.start_schedule(start_ns)
        tick = 0
        while tick < n_ticks:
            if self._stop():
                return False
            begin_ns = wait_until(start_ns + tick * period_ns, self._spin_ns, self._clock)
            current = min((begin_ns - start_ns) // period_ns, n_ticks)
            recorder.skipped += current - tick
            if current == n_ticks:
                break
            tick = current
            usable = self._tick(tick)
            recorder.add(tick, begin_ns, now_ns())
            if usable:
                self._silent_since_ns = None
            elif not self._may_hold(begin_ns):
                return False
            tick += 1
        wait_until(start_ns + n_ticks * period_ns, self._spin_ns, self._clock)
        return True

    def _tick(self, tick: int) -> bool:
        """Returns whether the policy had a usable action; one observation in, one safe target out."""
        obs = self._io.read()
        wanted = self._wanted(tick, obs)
        target, usable = self.limiter.last, False
        if wanted is not None:
            target, flags = self.limiter.apply(wanted)
            usable = not flags & Intervention.NOT_FINITE
        assert target is not None  # the limiter was started at the robot's position
        self._io.write(target)
        if self._on_tick is not None:
            self._on_tick(self.recorder.n, obs, target)
        return usable

    def _wanted(self, tick: int, obs: np.ndarray) -> np.ndarray | None:
        """Returns the action that the policy wants now, (act_dim,); None where it does not answer."""
        if self._chunk is None or tick - self._chunk_tick >= self._n_action_steps:
            self._chunk = None
            before_ns = self._clock.now_ns()
            try:
                chunk = self._policy.act(obs, deadline_s=self._deadline_s)
            except (PolicyTimeout, PolicyError) as error:
                self.recorder.last_failure = str(error)
                return None
            self.recorder.add_act(self._clock.now_ns() - before_ns)
            self._chunk, self._chunk_tick = chunk, tick
            return chunk[0]
        return self._chunk[tick - self._chunk_tick]

    def _may_hold(self, begin_ns: int) -> bool:
        """Returns whether another tick, after the held one that began then, ends within `max_silence_s`."""
        recorder = self.recorder
        recorder.n_holds += 1
        self._chunk = None
        if self._silent_since_ns is None:
            self._silent_since_ns = begin_ns
        silence_s = (self._clock.now_ns() - self._silent_since_ns) * 1e-9
        if silence_s + self._period_ns * 1e-9 <= self._config.max_silence_s:
            return True
        why = recorder.last_failure or "its actions are not finite"
        recorder.error = (
            f"no usable action from the policy for {silence_s:.3f} s (max_silence_s {self._config.max_silence_s}): "
            f"stopped, the robot holds its last safe target; last failure: {why}"
        )
        return False


def _episodes(config: ControlConfig) -> Iterator[int]:
    """Yields the ticks of each episode; the last one may be shorter."""
    length = config.episode_ticks or config.n_ticks
    for start in range(0, config.n_ticks, length):
        yield min(length, config.n_ticks - start)
