"""The errors of this package that users catch."""

from policy_server.contract.wire import Status


class BundleError(ValueError):
    """A bundle is damaged, foreign or inconsistent. The message says which part, and how."""


class BackendError(RuntimeError):
    """Runtime, provider or graph are not what is needed. The message says what there is."""


class ServerError(RuntimeError):
    """The server cannot start or listen. The message says why, and what to do."""


class PolicyTimeout(TimeoutError):
    """No answer came before the deadline. The message says how long the call waited."""


class PolicyError(RuntimeError):
    """The policy refused an obs, or failed.

    Attributes:
        status: The reason, as on the wire.
    """

    def __init__(self, status: Status, message: str):
        super().__init__(f"{status.name}: {message}")
        self.status = status


class MemoryLost(PolicyError):
    """The policy forgot the episode before it ended. `reset` begins another one."""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:400]
