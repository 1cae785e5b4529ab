"""Limits how long a robot holds its last safe target while it gets no new one."""


class Watchdog:
    """Measures a silence: ticks in a row without a usable action that reached the robot.

    Attributes:
        n_holds: Silent ticks so far, all silences together.
        missing: What the latest silent tick lacked, like "usable action from the policy".
        last_failure: Why, in the words of whom it came from.

    Args:
        max_silence_s: Longest silence before the run must end [s].
        period_s: Time between two ticks [s].
    """

    def __init__(self, max_silence_s: float, period_s: float):
        self._max_silence_s = max_silence_s
        self._period_s = period_s
        self._since_ns: int | None = None
        self._silence_s = 0.0
        self.n_holds = 0
        self.missing = "usable action from the policy"
        self.last_failure = "its actions are not finite"

    def note(self, missing: str, why: str) -> None:
        """Notes what this tick lacks, and why."""
        self.missing = missing
        self.last_failure = why

    def end_silence(self) -> None:
        """Notes a usable action that was sent, or the start of an episode."""
        self._since_ns = None

    def may_hold(self, begin_ns: int, end_ns: int) -> bool:
        """Counts a silent tick and returns whether one more would end within `max_silence_s`.

        Args:
            begin_ns: When the silent tick began [ns].
            end_ns: The time now [ns].
        """
        self.n_holds += 1
        if self._since_ns is None:
            self._since_ns = begin_ns
        self._silence_s = (end_ns - self._since_ns) * 1e-9
        return self._silence_s + self._period_s <= self._max_silence_s

    def error(self) -> str:
        """Returns why the run ends after the current silence."""
        return (
            f"no {self.missing} for {self._silence_s:.3f} s (max_silence_s "
            f"{self._max_silence_s}): stopped, the robot holds its last safe target; last failure: "
            f"{self.last_failure}"
        )
