"""The client's end of the wire: a plain socket without keys, CURVE with them.

A link connects by itself while calls are made, with a bounded back-off. It stores no message for a
server that is not there.
"""

import uuid
from typing import Protocol

from policy_server.transport.address import host_and_port, unix_path
from policy_server.transport.curve_client import CurveLink
from policy_server.transport.keys import ClientKeys
from policy_server.transport.names import look_up, tcp_text
from policy_server.transport.plain_client import PlainLink


class Link(Protocol):
    """Sends and receives frames of `policy_server.contract.wire`.

    Attributes:
        trouble: Why there is no connection, as far as that is known. Empty otherwise.
    """

    trouble: str

    def send(self, frame: bytes, deadline_ns: int) -> bool:
        """Returns whether the frame was sent. Waits for a connection until `deadline_ns`."""
        ...

    def receive(self, deadline_ns: int) -> bytes | None:
        """Returns the next frame, or None at `deadline_ns` (monotonic)."""
        ...

    def close(self) -> None:
        """Ends the connection and drops what was not sent yet."""
        ...


def connect(endpoint: str, keys: ClientKeys | None = None) -> Link:
    """Returns a link to a server, with a routing id of its own.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        keys: The client's keys, for a server with keys.

    Raises:
        ValueError: The endpoint is neither tcp nor ipc.
    """
    identity = new_identity()
    return PlainLink(endpoint, identity) if keys is None else CurveLink(endpoint, identity, keys)


def in_figures(endpoint: str, timeout_s: float) -> str:
    """Returns the endpoint with its host's first address in place of a name.

    Raises:
        ValueError: The endpoint is neither tcp nor ipc.
        OSError: There is no such host, or its look-up lasts longer than `timeout_s`.
    """
    if unix_path(endpoint) is not None:
        return endpoint
    return tcp_text(look_up(*host_and_port(endpoint), timeout_s)[0])


def new_identity() -> bytes:
    """Returns a new routing id that cannot be guessed."""
    return b"c" + uuid.uuid4().bytes


def unconnected_hint(keys: ClientKeys | None) -> str:
    """Returns the usual causes of a missing connection, for an error message."""
    if keys is None:
        return (
            "is the server running there (edp serve)? A server with keys ignores clients without "
            "them (--keys)"
        )
    return (
        "is the server running there (edp serve --keys), and does it admit this client's key? "
        "It ignores clients whose key it does not know"
    )
