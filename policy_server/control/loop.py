"""The control loop: a policy, served or local, drives a robot on absolute deadlines.

Tick k starts at t0 + k * control_period_s on the monotonic clock. A late tick does not shift those
after it. While the policy is silent the robot is told its last safe target, and after
`max_silence_s` the run ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server.contract.clock import Clock, quiet, wait_until
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.policy import Policy
from policy_server.contract.signals import stop_on_signals
from policy_server.control.control_report import ControlReport
from policy_server.control.limiter import Intervention, Limiter
from policy_server.control.recorder import Recorder
from policy_server.control.robot import Robot
from policy_server.control.robot_io import RobotError, RobotIO
from policy_server.control.watchdog import Watchdog

OnTick = Callable[[int, np.ndarray, np.ndarray], Any]


@dataclass(frozen=True)
class ControlConfig:
    """How a robot is driven.

    Attributes:
        n_ticks: Ticks of the whole run.
        control_period_s: Time between ticks [s]. None: the policy's own.
        act_deadline_s: How long a tick waits for the policy [s]. None: 0.8 of the period.
        max_silence_s: How long the robot holds its last safe target before the run fails [s].
        spin_s: How long to watch the clock before each tick instead of sleeping [s].
        episode_ticks: Ticks of an episode. None: one episode lasts the whole run.
        seed: Seeds the noise and the start of the first episode. Episode i has seed + i.
        start_action: Where the limiter starts, (act_dim,), for a robot that does not know its
            position.
        realtime: Asks for SCHED_FIFO. The run fails where the system refuses it.
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
    robot: Robot,
    policy: Policy,
    config: ControlConfig,
    on_tick: OnTick | None = None,
    clock: Clock | None = None,
) -> ControlReport:
    """Returns what happened while `policy` drove `robot`.

    However the run ends (done, Ctrl-C, silence, a failing robot), the robot is sent its last safe
    target once more before it is disconnected. A failure stands in the report's `error`; it is not
    raised.

    Args:
        robot: The robot. It is connected here.
        policy: A `PolicyClient`, a `LocalPolicy` or another `Policy`.
        config: How to drive.
        on_tick: Called at the end of each tick as on_tick(tick, obs, target). Its time counts as
            the tick's.
        clock: Clock to use. None: the machine's monotonic clock.

    Raises:
        RobotError: The robot does not fit the policy.
        RealtimeError: The system refuses real-time scheduling.
        PolicyTimeout, PolicyError: The policy does not tell its manifest.
    """
    manifest = policy.manifest
    with stop_on_signals() as stop:
        robot.connect()
        try:
            robot_io = RobotIO(robot, manifest)
            loop = _Loop(robot_io, policy, config, on_tick, clock or Clock(), stop.is_set)
            try:
                with quiet(config.realtime):
                    loop.run()
            finally:
                loop.send_last()
        finally:
            robot.disconnect()
    return loop.report()


class _Loop:
    """The state of one run."""

    def __init__(
        self,
        robot_io: RobotIO,
        policy: Policy,
        config: ControlConfig,
        on_tick: OnTick | None,
        clock: Clock,
        stop: Callable[[], bool],
    ):
        manifest = policy.manifest
        period_s = config.control_period_s or manifest.control_period_s
        self._io = robot_io
        self._policy = policy
        self._config = config
        self._on_tick = on_tick
        self._clock = clock
        self._stop = stop
        self._period_ns = round(period_s * 1e9)
        self._spin_ns = round(config.spin_s * 1e9)
        self._deadline_s = config.act_deadline_s or 0.8 * period_s
        self._n_action_steps = manifest.n_action_steps
        self._limiter = Limiter.from_manifest(manifest, period_s)
        self._watchdog = Watchdog(config.max_silence_s, period_s)
        self._recorder = Recorder(config.n_ticks, self._period_ns)
        self._chunk: np.ndarray | None = None
        self._chunk_tick = 0

    def run(self) -> None:
        """Drives every episode. Records a failure instead of raising it."""
        recorder = self._recorder
        try:
            for index, n_ticks in enumerate(_episodes(self._config)):
                self._start_episode(index)
                if not self._drive(n_ticks):
                    recorder.interrupted = self._stop()
                    return
                success = self._io.episode_success()
                if success is not None:
                    recorder.successes.append(success)
        except RobotError:
            raise
        except KeyboardInterrupt:
            recorder.interrupted = True
        except (PolicyTimeout, PolicyError) as error:
            recorder.fail(f"policy failed between episodes: {error}")
        except Exception as error:  # the robot must get its last safe target, whatever it raises
            recorder.fail(f"robot or callback failed: {type(error).__name__}: {error}")

    def send_last(self) -> None:
        """Sends the robot its last safe target again, where there is one."""
        if self._limiter.last is None:
            return
        try:
            self._io.write(self._limiter.last)
        except Exception as error:
            self._recorder.fail(f"could not send the last safe target: {error}")

    def report(self) -> ControlReport:
        """Returns the report of the run so far."""
        return self._recorder.report(
            n_holds=self._watchdog.n_holds,
            interventions=self._limiter.counts,
            unchecked_fields=self._io.unchecked,
        )

    def _start_episode(self, index: int) -> None:
        """Resets robot and policy, outside the timed ticks."""
        seed = self._config.seed + index
        if self._config.episode_ticks is not None:
            self._io.reset_episode(seed)
        self._policy.reset(seed)
        if self._config.start_action is None:
            self._limiter.reset(self._io.position())
        elif self._limiter.last is None:
            self._limiter.reset(np.asarray(self._config.start_action))
        self._chunk = None
        self._watchdog.end_silence()

    def _drive(self, n_ticks: int) -> bool:
        """Returns True when `n_ticks` have passed, False where the run must end before that."""
        now_ns = self._clock.now_ns
        recorder = self._recorder
        period_ns = self._period_ns
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
                self._watchdog.end_silence()
            elif not self._may_hold(begin_ns):
                return False
            tick += 1
        wait_until(start_ns + n_ticks * period_ns, self._spin_ns, self._clock)
        return True

    def _tick(self, tick: int) -> bool:
        """Sends one safe target. Returns whether the policy had a usable action for it."""
        obs = self._io.read()
        wanted = self._wanted(tick, obs)
        target = self._limiter.last
        usable = False
        if wanted is not None:
            target, flags = self._limiter.apply(wanted)
            usable = not flags & Intervention.NOT_FINITE
        assert target is not None  # the limiter was started at the robot's position
        self._io.write(target)
        if self._on_tick is not None:
            self._on_tick(self._recorder.n, obs, target)
        return usable

    def _wanted(self, tick: int, obs: np.ndarray) -> np.ndarray | None:
        """Returns the action that the policy wants now (act_dim,). None: it does not answer."""
        if self._chunk is not None and tick - self._chunk_tick < self._n_action_steps:
            return self._chunk[tick - self._chunk_tick]
        self._chunk = None
        before_ns = self._clock.now_ns()
        try:
            chunk = self._policy.act(obs, deadline_s=self._deadline_s)
        except (PolicyTimeout, PolicyError) as error:
            self._watchdog.last_failure = str(error)
            return None
        self._recorder.add_act(self._clock.now_ns() - before_ns)
        self._chunk = chunk
        self._chunk_tick = tick
        return chunk[0]

    def _may_hold(self, begin_ns: int) -> bool:
        """Returns whether the run goes on after a silent tick that began at `begin_ns`."""
        self._chunk = None
        if self._watchdog.may_hold(begin_ns, self._clock.now_ns()):
            return True
        self._recorder.fail(self._watchdog.error())
        return False


def _episodes(config: ControlConfig) -> Iterator[int]:
    """Yields the ticks of each episode. The last one may be shorter."""
    length = config.episode_ticks or config.n_ticks
    for start in range(0, config.n_ticks, length):
        yield min(length, config.n_ticks - start)
