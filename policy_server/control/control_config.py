"""How a robot is driven."""

import math
from dataclasses import dataclass

PERIODS_S = (1e-5, 3600.0)  # the shortest and the longest control period [s]
MAX_TICKS = 10**13


@dataclass(frozen=True)
class ControlConfig:
    """How a robot is driven.

    Attributes:
        n_ticks: Ticks of the whole run.
        control_period_s: Time between ticks [s]. None: the policy's own.
        act_deadline_s: How long a tick waits for the policy [s]. None: 0.8 of the period.
        max_silence_s: How long the robot holds its last safe target before the run fails [s]: while
            the policy is silent, and while readings or targets are lost.
        spin_s: How long to watch the clock before each tick instead of sleeping [s].
        episode_ticks: Ticks of an episode. None: one episode lasts the whole run.
        seed: Seeds the noise and the start of the first episode. Episode i has seed + i.
        start_action: Where the limiter starts, (act_dim,), for a robot that does not know its
            position.
        start_tolerance: How far outside the policy's action limits the robot may start, as a share
            of their range. Readings may be ten times as far outside theirs. inf: anywhere.
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
    start_tolerance: float = 0.1
    realtime: bool = False

    def __post_init__(self):
        """Raises ValueError for the first value out of its range."""
        for name in ("n_ticks", "episode_ticks"):
            value = getattr(self, name)
            if value is None and name == "episode_ticks":
                continue
            if not isinstance(value, int) or not 0 < value <= MAX_TICKS:
                raise ValueError(f"{name} {value!r}: expected a whole number, 1 to {MAX_TICKS:g}")
        for name in ("control_period_s", "act_deadline_s", "max_silence_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} {value!r}: expected a time above 0 [s]")
        least_s, most_s = PERIODS_S
        if self.control_period_s is not None and not least_s <= self.control_period_s <= most_s:
            raise ValueError(
                f"control_period_s {self.control_period_s!r}: expected {least_s:g} to {most_s:g} s"
            )
        if not 0 <= self.spin_s < 1:
            raise ValueError(f"spin_s {self.spin_s!r}: expected a time in [0, 1) [s]")
        if not self.start_tolerance >= 0:
            raise ValueError(f"start_tolerance {self.start_tolerance!r}: expected 0 or more")
        if not all(map(math.isfinite, self.start_action or ())):
            raise ValueError(f"start_action {self.start_action!r}: expected finite numbers")
