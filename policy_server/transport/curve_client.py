"""A client's connection to its server: a plain socket on this machine, libzmq where there are keys.

A link connects by itself in the course of the calls, again and again with a bounded back-off. It stores nothing for a
server that is not there.
"""

import time
import uuid
from typing import Protocol

import zmq

from policy_server.contract import wire
from policy_server.transport.keys import ClientKeys, apply_client
from policy_server.transport.plain_client import BACK_OFF_S, PlainLink


class Link(Protocol):
    """Sends and receives frames of `wire`."""

    def send(self, frame: bytes, deadline_ns: int) -> bool:
        """Returns whether the frame was sent; False where there was no connection until `deadline_ns`."""
        ...

    def receive(self, deadline_ns: int) -> bytes | None:
        """Returns the next frame, or None at `deadline_ns` (monotonic)."""
        ...

    def close(self) -> None:
        """Ends the connection; what was not sent yet is dropped."""
        ...


class KeyedLink:
    """A DEALER of libzmq: for CURVE.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        identity: Routing id: the session on the server.
        keys: Of the client.

    Raises:
        ValueError: ZeroMQ does not understand the endpoint.
    """

    def __init__(self, endpoint: str, identity: bytes, keys: ClientKeys):
        self._socket = dealer(endpoint, identity, keys)

    def send(self, frame: bytes, deadline_ns: int) -> bool:
        """See `Link`."""
        while True:
            try:
                self._socket.send(frame, zmq.NOBLOCK)
                return True
            except zmq.Again:
                if not self._wait(zmq.POLLOUT, deadline_ns):
                    return False

    def receive(self, deadline_ns: int) -> bytes | None:
        """See `Link`."""
        return (
            b"".join(self._socket.recv_multipart(zmq.NOBLOCK))
            if self._wait(zmq.POLLIN, deadline_ns)
            else None
        )

    def close(self) -> None:
        """See `Link`."""
        self._socket.close(linger=0)

    def _wait(self, event: int, deadline_ns: int) -> bool:
        """Returns whether the socket is ready; ZeroMQ waits in whole milliseconds, so the last one is looked at."""
        while True:
            left_ns = deadline_ns - time.monotonic_ns()
            if self._socket.poll(max(left_ns // 1_000_000, 0), event):
                return True
            if left_ns <= 0:
                return False
            if left_ns < 1_000_000:
                time.sleep(min(left_ns, 50_000) * 1e-9)


def new_identity() -> bytes:
    """Returns a routing id of its own, which nobody can guess."""
    return b"c" + uuid.uuid4().bytes


def dealer(endpoint: str, identity: bytes, keys: ClientKeys | None = None) -> zmq.Socket:
    """Returns a DEALER of libzmq that connects by itself.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        identity: Routing id: the session on the server.
        keys: Of the client.

    Raises:
        ValueError: ZeroMQ does not understand the endpoint.
    """
    own = zmq.Context.instance().socket(zmq.DEALER)
    if keys is not None:
        apply_client(own, keys)
    options = {
        zmq.ROUTING_ID: identity,
        zmq.LINGER: 0,
        zmq.IMMEDIATE: 1,
        zmq.MAXMSGSIZE: wire.MAX_FRAME_BYTES,
    }
    options |= {
        zmq.RECONNECT_IVL: int(BACK_OFF_S[0] * 1000),
        zmq.RECONNECT_IVL_MAX: int(BACK_OFF_S[1] * 1000),
    }
    options |= {zmq.HEARTBEAT_IVL: 1000, zmq.HEARTBEAT_TIMEOUT: 3000, zmq.IPV6: "[" in endpoint}
    for option, value in options.items():
        own.setsockopt(option, value)
    try:
        own.connect(endpoint)
    except zmq.ZMQError as error:
        own.close()
        raise ValueError(
            f"endpoint {endpoint!r}: {zmq.strerror(error.errno or 0)}; expected tcp://HOST:PORT or ipc://PATH"
        ) from error
    return own


def unconnected_hint(keys: ClientKeys | None) -> str:
    """Returns what to look at where there is no connection: a question, the end of a sentence."""
    there = "is the server running there"
    if keys is None:
        return f"{there} (edp serve), and without keys, since one with keys answers no client without them (--keys)?"
    return f"{there} (edp serve --keys), and does it know this client's key, since it answers no client without one?"


def connect(endpoint: str, keys: ClientKeys | None = None) -> Link:
    """Returns a link with a routing id of its own, which nobody can guess.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        keys: For a server with keys.

    Raises:
        ValueError: Nobody can connect to such an endpoint.
    """
    identity = new_identity()
    return PlainLink(endpoint, identity) if keys is None else KeyedLink(endpoint, identity, keys)
