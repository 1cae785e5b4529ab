"""The server's end of the wire: plain sockets without keys, CURVE with them."""

import select
from typing import Protocol

from policy_server.transport.curve_server import CurveFront
from policy_server.transport.keys import ServerKeys
from policy_server.transport.plain_server import PlainFront


class Front(Protocol):
    """Receives requests and sends replies.

    Attributes:
        endpoint: The endpoint it listens on, with the real port.
    """

    endpoint: str

    def receive(self, wait_s: float) -> list[tuple[bytes, list[bytes]]]:
        """Returns the messages that have arrived, as (routing id, frames).

        Args:
            wait_s: Time to wait for a first message [s]. 0 does not wait.
        """
        ...

    def send(self, identity: bytes, data: bytes) -> bool:
        """Returns whether the message is on its way. False: the peer is gone, or does not read."""
        ...

    def refresh(self) -> None:
        """Reads the clients' keys again. Does nothing without keys."""
        ...

    def close(self, linger_s: float = 0.0) -> None:
        """Ends all connections. Waiting replies have `linger_s` to leave [s]."""
        ...


def listen(endpoint: str, keys: ServerKeys | None = None) -> Front:
    """Returns a front that listens on `endpoint`.

    libzmq also serves without keys on systems that have no epoll.

    Args:
        endpoint: tcp://ADDRESS:PORT (port * picks a free one) or ipc://PATH.
        keys: The server's keys. None: clients need none.

    Raises:
        ServerError: The front cannot listen there.
    """
    if keys is None and hasattr(select, "epoll"):
        return PlainFront(endpoint)
    return CurveFront(endpoint, keys)
