"""What a control run reports."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server.bench.statistics import summary

_COUNTS = (
    *("ticks", "missed_deadlines", "skipped", "n_holds", "n_lost_reads", "n_lost_writes"),
    *("control_period_s", "interventions", "unchecked_fields", "successes", "interrupted", "error"),
)


@dataclass(frozen=True)
class ControlReport:
    """What happened in a control run.

    Attributes:
        ticks: Ticks that did their work.
        missed_deadlines: Ticks whose work ended after the next tick's scheduled start.
        skipped: Ticks that passed entirely while another tick was at work or the process did not
            run.
        n_holds: Ticks that brought the robot no new target: there was no usable action, the reading
            was lost, or the target was. The robot kept its last safe target.
        n_lost_reads: Readings that failed, lacked a number, or held NaN or infinity.
        n_lost_writes: Targets that could not be sent.
        control_period_s: Scheduled time between ticks [s].
        interventions: Number of targets that the limiter changed, by kind.
        unchecked_fields: Fields of the policy whose names could not be compared with the robot's,
            like "obs.arm".
        successes: Whether each complete episode succeeded. Empty where the robot cannot tell.
        interrupted: Whether SIGINT, SIGTERM, SIGHUP or SIGQUIT ended the run.
        error: Every reason why the run, or its end, failed. None: it did not.
        period_ns: (n,) time between the starts of neighbouring ticks [ns].
        late_ns: (ticks,) start of each tick after its scheduled start [ns].
        work_ns: (ticks,) time from each tick's start to the end of its work [ns].
        act_ns: (n_acts,) time of each answered query [ns].

    The arrays have the newest 8 million values of a run that is longer than that.
    """

    ticks: int
    missed_deadlines: int
    skipped: int
    n_holds: int
    n_lost_reads: int
    n_lost_writes: int
    control_period_s: float
    interventions: dict[str, int]
    unchecked_fields: tuple[str, ...]
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
        return {
            **{key: getattr(self, key) for key in _COUNTS},
            "period_jitter_us": summary(self.jitter_us),
            "late_us": summary(self.late_ns / 1000),
            "work_us": summary(self.work_ns / 1000),
            "act_us": summary(self.act_ns / 1000),
        }
