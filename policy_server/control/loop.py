"""The control loop: a policy, served or local, drives a robot on absolute deadlines.

Tick k starts at t0 + k * control_period_s on the monotonic clock. A late tick does not shift those
after it. While the policy is silent, or the robot's readings or targets are lost, the robot keeps
its last safe target, and after `max_silence_s` the run ends.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np

from policy_server.contract.clock import Clock, RealtimeError, quiet, wait_until
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.policy import Policy
from policy_server.contract.signals import Stop, stop_on_signals
from policy_server.control.control_config import ControlConfig
from policy_server.control.control_report import ControlReport
from policy_server.control.limiter import Intervention, Limiter
from policy_server.control.lost import Lost
from policy_server.control.recorder import Recorder
from policy_server.control.robot import Robot
from policy_server.control.robot_io import RobotError, RobotIO
from policy_server.control.robot_use import RobotUse, use_robot
from policy_server.control.start_check import check_start
from policy_server.control.watchdog import Watchdog

__all__ = ["ControlConfig", "OnTick", "run"]

OnTick = Callable[[int, np.ndarray, np.ndarray], Any]
T = TypeVar("T")

START_S = 1.0  # how long a target without a rate limit takes to leave the robot's position [s]
MIN_START_TICKS = 10  # the same for a slow loop [ticks]
SEND_LAST_TRIES = 3


def run(
    robot: Robot,
    policy: Policy,
    config: ControlConfig,
    on_tick: OnTick | None = None,
    clock: Clock | None = None,
    stop: Stop | None = None,
) -> ControlReport:
    """Returns what happened while `policy` drove `robot`.

    However the run ends (done, Ctrl-C, a closed terminal, silence, a failing robot), the robot is
    sent its last safe target once more, and disconnect() is called once, also after a connect()
    that failed. Every failure stands in the report's `error`; it is not raised.

    Args:
        robot: The robot. It is connected here.
        policy: A `PolicyClient`, a `LocalPolicy` or another `Policy`.
        config: How to drive.
        on_tick: Called at the end of each tick as on_tick(tick, obs, target). Its time counts as
            the tick's. obs is NaN where the reading was lost; target is the last that was sent.
            Where it raises OSError (a full disk, a closed terminal), the run goes on without it.
        clock: Clock to use. None: the machine's monotonic clock.
        stop: What ends the run early. None: SIGINT, SIGTERM, SIGHUP and SIGQUIT do.

    Raises:
        RobotError: The robot does not fit the policy, or starts far outside its limits.
        RealtimeError: The system refuses real-time scheduling.
        PolicyTimeout, PolicyError: The policy does not tell its manifest.
    """
    loop = _Loop(policy, config, on_tick, clock or Clock())
    with stop_on_signals(breaks=False) if stop is None else nullcontext(stop) as signals:
        use = use_robot(robot, lambda: loop.run(robot, signals), loop.send_last, signals)
    _raise_refusal(use)
    return loop.report(use)


def _raise_refusal(use: RobotUse) -> None:
    """Raises the RobotError or RealtimeError of a run that did not begin, with all that failed."""
    for number, (_, error) in enumerate(use.failures):
        if isinstance(error, (RobotError, RealtimeError)):
            reasons = use.reasons()
            reasons[number] = str(error)
            raise type(error)("; ".join(reasons)) from error


class _Loop:
    """The state of one run."""

    def __init__(self, policy: Policy, config: ControlConfig, on_tick: OnTick | None, clock: Clock):
        manifest = policy.manifest
        period_s = config.control_period_s or manifest.control_period_s
        n_start = max(round(START_S / period_s), MIN_START_TICKS)
        self._policy = policy
        self._manifest = manifest
        self._config = config
        self._on_tick = on_tick
        self._clock = clock
        self._period_ns = round(period_s * 1e9)
        self._spin_ns = round(config.spin_s * 1e9)
        self._deadline_s = config.act_deadline_s or 0.8 * period_s
        self._n_action_steps = manifest.n_action_steps
        self._limiter = Limiter.from_manifest(manifest, period_s, n_start)
        self._watchdog = Watchdog(config.max_silence_s, period_s)
        self._recorder = Recorder(self._period_ns)
        self._no_obs = np.full(manifest.obs_dim, np.nan, np.float32)
        self._obs_is_checked = False
        self._chunk: np.ndarray | None = None
        self._chunk_tick = 0
        self._unchecked: tuple[str, ...] = ()

    def run(self, robot: Robot, stop: Stop) -> None:
        """Drives every episode. Records a failure instead of raising it.

        Raises:
            RobotError: The robot does not fit the policy. Nothing was sent.
            RealtimeError: The system refuses real-time scheduling.
        """
        self._stop = stop
        self._io = RobotIO(robot, self._manifest)
        self._unchecked = self._io.unchecked
        with quiet(self._config.realtime):
            self._drive_episodes()

    def _drive_episodes(self) -> None:
        recorder = self._recorder
        try:
            for index, n_ticks in enumerate(_episodes(self._config)):
                self._start_episode(index)
                if not self._drive(n_ticks):
                    recorder.interrupted = self._stop.is_set()
                    return
                success = self._patiently(self._io.episode_success)
                if success is not None:
                    recorder.successes.append(success)
        except RobotError as error:
            if recorder.n == 0:
                self._limiter.forget()
                raise
            recorder.fail(str(error))
        except KeyboardInterrupt:
            recorder.interrupted = True
        except Lost as error:
            recorder.interrupted = self._stop.is_set()
            silence_s = self._config.max_silence_s
            recorder.fail(f"no position or success from the robot for {silence_s} s: {error}")
        except (PolicyTimeout, PolicyError) as error:
            recorder.fail(f"policy failed between episodes: {error}")
        except Exception as error:  # the robot must get its last safe target, whatever it raises
            recorder.fail(f"robot or callback failed: {type(error).__name__}: {error}")

    def send_last(self) -> None:
        """Sends the robot its last safe target again, where there is one.

        Raises:
            Lost: It could not be sent in SEND_LAST_TRIES tries.
        """
        if self._limiter.last is None:
            return
        for n_left in reversed(range(SEND_LAST_TRIES)):
            try:
                self._io.write(self._limiter.last)
                return
            except Lost:
                if n_left == 0:
                    raise

    def report(self, use: RobotUse) -> ControlReport:
        """Returns the report of the run, with what went wrong at its ends."""
        recorder = self._recorder
        for reason in use.reasons():
            recorder.fail(reason)
        recorder.interrupted |= use.interrupted
        return recorder.report(
            n_holds=self._watchdog.n_holds,
            interventions=self._limiter.counts,
            unchecked_fields=self._unchecked,
        )

    def _start_episode(self, index: int) -> None:
        """Resets robot and policy, outside the timed ticks."""
        config = self._config
        seed = config.seed + index
        if config.episode_ticks is not None:
            self._io.reset_episode(seed)
        self._policy.reset(seed)
        if config.start_action is None:
            self._limiter.forget()  # the last target was another episode's
            position = self._patiently(self._io.position)
            self._check("position", self._io.action_names, position)
            self._limiter.reset(position)
        elif self._limiter.last is None:
            start = np.asarray(config.start_action, float)
            self._check("start_action", self._io.action_names, start)
            self._limiter.reset(start)
        self._chunk = None
        self._watchdog.end_silence()

    def _check(self, vector: str, names: list[str], values: np.ndarray) -> None:
        """Raises RobotError where the robot's units cannot be the policy's."""
        fields = self._manifest.obs if vector == "obs" else self._manifest.action
        check_start(vector, fields, names, values, self._config.start_tolerance)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Returns `call()`, tried again while readings are lost.

        Raises:
            Lost: They were lost for `max_silence_s`, or a signal came meanwhile.
        """
        until_ns = self._clock.now_ns() + round(self._config.max_silence_s * 1e9)
        while True:
            try:
                return call()
            except Lost:
                self._recorder.n_lost_reads += 1
                if self._stop.is_set() or self._clock.now_ns() + self._period_ns > until_ns:
                    raise
            self._clock.sleep(self._period_ns * 1e-9)

    def _drive(self, n_ticks: int) -> bool:
        """Returns True when `n_ticks` have passed, False where the run must end before that."""
        now_ns = self._clock.now_ns
        recorder = self._recorder
        period_ns = self._period_ns
        start_ns = now_ns() + period_ns
        recorder.start_schedule(start_ns)
        tick = 0
        while tick < n_ticks:
            if self._stop.is_set():
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
        """Sends one safe target. Returns whether the robot got a usable action of the policy."""
        obs = self._read()
        wanted = None if obs is None else self._wanted(tick, obs)
        usable = wanted is not None and self._limit(wanted)
        target = self._limiter.last
        assert target is not None  # the limiter was started at the robot's position
        sent = self._write(target)
        if usable and not sent:
            self._limiter.lose()
        if self._on_tick is not None:
            self._tell(self._no_obs if obs is None else obs)
        return usable and sent

    def _read(self) -> np.ndarray | None:
        """Returns the obs (obs_dim,). None: the reading is lost."""
        try:
            obs = self._io.read()
        except Lost as error:
            self._recorder.n_lost_reads += 1
            self._watchdog.note("reading from the robot", str(error))
            return None
        if not self._obs_is_checked:
            self._check("obs", self._io.obs_names, obs)
            self._obs_is_checked = True
        return obs

    def _limit(self, wanted: np.ndarray) -> bool:
        """Makes the limiter's next target of a wanted one. Returns False where it is not finite."""
        _, flags = self._limiter.apply(wanted)
        if not flags & Intervention.NOT_FINITE:
            return True
        self._chunk = None
        self._watchdog.note("usable action from the policy", "its actions are not finite")
        return False

    def _write(self, target: np.ndarray) -> bool:
        """Returns whether the target was sent."""
        try:
            self._io.write(target.copy())
        except Lost as error:
            self._recorder.n_lost_writes += 1
            self._watchdog.note("target that reached the robot", str(error))
            return False
        return True

    def _tell(self, obs: np.ndarray) -> None:
        """Calls `on_tick`, for the last time where it can no longer write."""
        assert self._on_tick is not None
        assert self._limiter.last is not None
        try:
            self._on_tick(self._recorder.n, obs, self._limiter.last.copy())
        except OSError as error:
            self._on_tick = None
            self._recorder.fail(
                f"on_tick failed at tick {self._recorder.n} and was not called again: "
                f"{type(error).__name__}: {error}"
            )

    def _wanted(self, tick: int, obs: np.ndarray) -> np.ndarray | None:
        """Returns the action that the policy wants now (act_dim,). None: it does not answer."""
        if self._chunk is not None and tick - self._chunk_tick < self._n_action_steps:
            return self._chunk[tick - self._chunk_tick]
        self._chunk = None
        before_ns = self._clock.now_ns()
        try:
            chunk = self._policy.act(obs, deadline_s=self._deadline_s)
        except (PolicyTimeout, PolicyError) as error:
            self._watchdog.note("usable action from the policy", str(error))
            return None
        self._recorder.add_act(self._clock.now_ns() - before_ns)
        self._chunk = chunk
        self._chunk_tick = tick
        return chunk[0]

    def _may_hold(self, begin_ns: int) -> bool:
        """Returns whether the run goes on after a silent tick that began at `begin_ns`."""
        if self._watchdog.may_hold(begin_ns, self._clock.now_ns()):
            return True
        self._recorder.fail(self._watchdog.error())
        return False


def _episodes(config: ControlConfig) -> Iterator[int]:
    """Yields the ticks of each episode. The last one may be shorter."""
    length = config.episode_ticks or config.n_ticks
    for start in range(0, config.n_ticks, length):
        yield min(length, config.n_ticks - start)
