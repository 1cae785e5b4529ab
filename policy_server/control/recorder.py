"""What a control run measured."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server.bench.statistics import summary


@dataclass(frozen=True)
class ControlReport:
    """What happened in a control run.

    Attributes:
        ticks: Ticks that were worked off.
        missed_deadlines: Ticks whose work ended after the next tick's start.
        skipped: Ticks that passed entirely while another was at work, or the process was not running.
        n_holds: Ticks in which the robot was told its last safe target, for want of a usable action.
        control_period_s: Scheduled time between ticks [s].
        interventions: Targets changed by the limiter, by kind.
        successes: Whether each complete episode succeeded, where the robot can tell.
        interrupted: Ended by SIGINT or SIGTERM.
        error: Why the run failed; None where it did not.
        period_ns: (n,) time between the starts of neighbouring ticks [ns].
        late_ns: (ticks,) start of each tick after its scheduled start [ns].
        work_ns: (ticks,) time from each tick's start to the end of its work [ns].
        act_ns: (n_acts,) time of each answered query [ns].
    """

    ticks: int
    missed_deadlines: int
    skipped: int
    n_holds: int
    control_period_s: float
    interventions: dict[str, int]
    successes: list[bool]
    interrupted: bool
    error: str | None
    period_ns: np.ndarray
    late_ns: np.ndarray
    work_ns: np.ndarray
    act_ns: np.ndarray

    @property
    def jitter_us(self) -> np.ndarray:
        """Distance of each period from the scheduled one, (n,) [us]."""
        return np.abs(self.period_ns - self.control_period_s * 1e9) / 1000

    def to_json(self) -> dict[str, Any]:
        """Returns counts and summaries [us], without the raw arrays."""
        plain = (
            "ticks",
            "missed_deadlines",
            "skipped",
            "n_holds",
            "control_period_s",
            "interventions",
        )
        return {
            **{key: getattr(self, key) for key in (*plain, "successes", "interrupted", "error")},
            "period_jitter_us": summary(self.jitter_us),
            "late_us": summary(self.late_ns / 1000),
            "work_us": summary(self.work_ns / 1000),
            "act_us": summary(self.act_ns / 1000),
        }


class Recorder:
    """Collects a run's numbers in memory that is reserved beforehand.

    Attributes:
        n: Ticks recorded.
        skipped, n_holds, successes, interrupted, error: See `ControlReport`.
        last_failure: Latest refusal or timeout of the policy.

    Args:
        n_ticks: Most ticks to come.
        period_ns: Scheduled time between ticks [ns].
    """

    def __init__(self, n_ticks: int, period_ns: int):
        self._control_period_ns = period_ns
        self._work_ns, self._late_ns, self._period_ns, self._act_ns = np.zeros(
            (4, n_ticks), dtype=np.int64
        )
        self.n = self._n_periods = self._n_acts = self._missed = 0
        self.skipped = self.n_holds = 0
        self.successes: list[bool] = []
        self.interrupted = False
        self.error: str | None = None
        self.last_failure = ""
        self.start_schedule(0)

    def start_schedule(self, start_ns: int) -> None:
        """Begins a new schedule with tick 0 at `start_ns`: no period leads to it from the tick before."""
        self._start_ns, self._previous = start_ns, (-2, 0)

    def add(self, tick: int, begin_ns: int, end_ns: int) -> None:
        """Records the tick of that number in its schedule."""
        due_ns = self._start_ns + tick * self._control_period_ns
        self._late_ns[self.n], self._work_ns[self.n] = begin_ns - due_ns, end_ns - begin_ns
        self._missed += end_ns > due_ns + self._control_period_ns
        previous_tick, previous_ns = self._previous
        if tick == previous_tick + 1:
            self._period_ns[self._n_periods] = begin_ns - previous_ns
            self._n_periods += 1
        self._previous = tick, begin_ns
        self.n += 1

    def add_act(self, elapsed_ns: int) -> None:
        """Records the time of an answered query."""
        self._act_ns[self._n_acts] = elapsed_ns
        self._n_acts += 1

    def report(self, interventions: dict[str, int]) -> ControlReport:
        """Returns the report of the run."""
        return ControlReport(
            ticks=self.n,
            missed_deadlines=self._missed,
            skipped=self.skipped,
            n_holds=self.n_holds,
            control_period_s=self._control_period_ns * 1e-9,
            interventions=dict(interventions),
            successes=self.successes,
            interrupted=self.interrupted,
            error=self.error,
            period_ns=self._period_ns[: self._n_periods].copy(),
            late_ns=self._late_ns[: self.n].copy(),
            work_ns=self._work_ns[: self.n].copy(),
            act_ns=self._act_ns[: self._n_acts].copy(),
        )
