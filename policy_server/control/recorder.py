"""Collects the times of a control run while it runs."""

from policy_server.control.control_report import ControlReport
from policy_server.control.samples import Samples


class Recorder:
    """Collects a run's numbers. Its memory is bounded, however long the run is.

    Attributes:
        n: Ticks recorded.
        n_lost_reads, n_lost_writes, skipped, successes, interrupted, error: See `ControlReport`.

    Args:
        period_ns: Scheduled time between ticks [ns].
    """

    def __init__(self, period_ns: int):
        self._control_period_ns = period_ns
        self._work_ns = Samples()
        self._late_ns = Samples()
        self._period_ns = Samples()
        self._act_ns = Samples()
        self._n_missed = 0
        self.n = 0
        self.n_lost_reads = 0
        self.n_lost_writes = 0
        self.skipped = 0
        self.successes: list[bool] = []
        self.interrupted = False
        self.error: str | None = None
        self.start_schedule(0)

    def start_schedule(self, start_ns: int) -> None:
        """Begins a new schedule with tick 0 at `start_ns`. A period never spans two schedules."""
        self._start_ns = start_ns
        self._previous_tick = -2
        self._previous_ns = 0

    def add(self, tick: int, begin_ns: int, end_ns: int) -> None:
        """Records a tick.

        Args:
            tick: Number of the tick in its schedule.
            begin_ns: When its work began [ns].
            end_ns: When its work ended [ns].
        """
        due_ns = self._start_ns + tick * self._control_period_ns
        self._late_ns.add(begin_ns - due_ns)
        self._work_ns.add(end_ns - begin_ns)
        self._n_missed += end_ns > due_ns + self._control_period_ns
        if tick == self._previous_tick + 1:
            self._period_ns.add(begin_ns - self._previous_ns)
        self._previous_tick = tick
        self._previous_ns = begin_ns
        self.n += 1

    def add_act(self, elapsed_ns: int) -> None:
        """Records the time of an answered query."""
        self._act_ns.add(elapsed_ns)

    def fail(self, message: str) -> None:
        """Records a failure, after those that are recorded already."""
        self.error = f"{self.error}; {message}" if self.error else message

    def report(
        self, n_holds: int, interventions: dict[str, int], unchecked_fields: tuple[str, ...]
    ) -> ControlReport:
        """Returns the report of the run.

        Args:
            n_holds: Ticks without a new target.
            interventions: Targets that the limiter changed, by kind.
            unchecked_fields: Fields whose names could not be compared with the robot's.
        """
        return ControlReport(
            ticks=self.n,
            missed_deadlines=self._n_missed,
            skipped=self.skipped,
            n_holds=n_holds,
            n_lost_reads=self.n_lost_reads,
            n_lost_writes=self.n_lost_writes,
            control_period_s=self._control_period_ns * 1e-9,
            interventions=dict(interventions),
            unchecked_fields=unchecked_fields,
            successes=self.successes,
            interrupted=self.interrupted,
            error=self.error,
            period_ns=self._period_ns.array(),
            late_ns=self._late_ns.array(),
            work_ns=self._work_ns.array(),
            act_ns=self._act_ns.array(),
        )
