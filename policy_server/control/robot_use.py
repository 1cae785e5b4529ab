"""Uses a robot: connects it, lets it work, ends safely, and disconnects it once."""

from collections.abc import Callable

from policy_server.contract.signals import Stop
from policy_server.control.robot import KnowsConnection, Robot

HANGS_S = 3.0  # a call at the end that takes longer may be broken by Ctrl-C


class RobotUse:
    """What went wrong while a robot was in use.

    Attributes:
        failures: What failed, in words, and its exception, in order.
        interrupted: Whether Ctrl-C or a signal ended the work, or kept it from beginning.
    """

    def __init__(self, stop: Stop):
        self._stop = stop
        self.failures: list[tuple[str, BaseException]] = []
        self.interrupted = False

    def reasons(self) -> list[str]:
        """Returns each failure in a line."""
        return [f"{what}: {_in_words(error)}" for what, error in self.failures]

    def attempt(self, what: str, call: Callable[[], object], after_s: float = 0.0) -> bool:
        """Returns whether `call()` came to its end. What it raises is kept, whatever it is.

        Args:
            what: What it means if it fails, like "disconnect() failed".
            call: What to do.
            after_s: Time after which a further Ctrl-C may break it off [s].
        """
        try:
            with self._stop.breakable(after_s):
                call()
        except BaseException as error:
            is_broken = isinstance(error, KeyboardInterrupt)
            self.interrupted |= is_broken
            if after_s or not is_broken:  # that the work was broken off is no failure
                self.failures.append((what, error))
            return False
        return True


def use_robot(
    robot: Robot,
    work: Callable[[], object],
    hold: Callable[[], object],
    stop: Stop,
    keep_connected: bool = False,
) -> RobotUse:
    """Connects `robot`, calls `work`, then `hold`, and disconnects. Returns what went wrong.

    However it ends (done, a signal, an exception of any kind, a connect() that fails half-way),
    `hold` and `disconnect()` are called once each. A further Ctrl-C breaks off connect() and `work`
    at once. It breaks off the other two only where they hang.

    Args:
        robot: The robot.
        work: What to do with it. It must look at `stop`.
        hold: Leaves the robot safe, for instance by sending its last target again.
        stop: Whether to stop. Nothing is connected where it is set already.
        keep_connected: Whether a robot that is connected already stays so.
    """
    use = RobotUse(stop)
    if stop.is_set():
        use.interrupted = True
        return use
    is_ours = not (keep_connected and isinstance(robot, KnowsConnection) and robot.is_connected)
    ready = use.attempt("connect() failed", robot.connect) if is_ours else True
    if ready and stop.is_set():
        use.interrupted = True
    elif ready:
        use.attempt("robot or callback failed", work)
        use.attempt("could not send the last safe target", hold, HANGS_S)
    if is_ours:
        use.attempt("disconnect() failed", robot.disconnect, HANGS_S)
    return use


def _in_words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "broken off by Ctrl-C"
    return f"{type(error).__name__}: {error}"
