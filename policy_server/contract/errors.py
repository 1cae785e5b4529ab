"""What a policy raises when it cannot answer, served or local."""

from policy_server.contract.wire import Status


class PolicyTimeout(TimeoutError):
    """No answer came before the deadline; the message says how long was waited, for whom, and what to do."""


class BackendError(RuntimeError):
    """The runtime, a provider or the graph is not what was asked for; the message says what is there."""


class PolicyError(RuntimeError):
    """The policy refused or failed.

    Attributes:
        status: Why, as on the wire.
    """

    def __init__(self, status: Status, message: str):
        super().__init__(f"{status.name}: {message}")
        self.status = status
