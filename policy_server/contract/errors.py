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


class PolicyChanged(PolicyError):
    """The endpoint has another policy now, whose interface differs. The message says what does.

    Make another client for it.
    """


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:400]


def printable(text: str, most: int = 80) -> str:
    """Returns a text from a file as a terminal may show it.

    It is on one line and cut to `most` characters. Control characters, which could move the cursor
    or end the line, and half characters (lone surrogates) become escapes like \\x1b.
    """
    whole = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1])
    return whole if len(whole) <= most else f"{whole[: most - 3]}..."
