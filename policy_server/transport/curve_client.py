"""A client's connection through libzmq, which encrypts it with CURVE."""

import time

import zmq

from policy_server.contract import wire
from policy_server.transport.keys import ClientKeys
from policy_server.transport.plain_client import BACK_OFF_S

_NAP_NS = 50_000  # libzmq waits in whole milliseconds, so the last one is slept through in naps.


class CurveLink:
    """A `Link` on a DEALER of libzmq, with CURVE.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        identity: Routing id, which names the session on the server.
        keys: The client's keys.

    Raises:
        ValueError: libzmq does not understand the endpoint.
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
        if not self._wait(zmq.POLLIN, deadline_ns):
            return None
        return b"".join(self._socket.recv_multipart(zmq.NOBLOCK))

    def close(self) -> None:
        """See `Link`."""
        self._socket.close(linger=0)

    def _wait(self, event: int, deadline_ns: int) -> bool:
        """Returns whether the socket is ready before the deadline."""
        while True:
            left_ns = deadline_ns - time.monotonic_ns()
            if self._socket.poll(max(left_ns // 1_000_000, 0), event):
                return True
            if left_ns <= 0:
                return False
            if left_ns < 1_000_000:
                time.sleep(min(left_ns, _NAP_NS) * 1e-9)


def dealer(endpoint: str, identity: bytes, keys: ClientKeys | None = None) -> zmq.Socket:
    """Returns a DEALER of libzmq, which connects by itself.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        identity: Routing id, which names the session on the server.
        keys: The client's keys. None for a server without keys.

    Raises:
        ValueError: libzmq does not understand the endpoint.
    """
    own = zmq.Context.instance().socket(zmq.DEALER)
    if keys is not None:
        apply_client(own, keys)
    options = {
        zmq.ROUTING_ID: identity,
        zmq.LINGER: 0,
        zmq.IMMEDIATE: 1,
        zmq.MAXMSGSIZE: wire.MAX_FRAME_BYTES,
        zmq.RECONNECT_IVL: int(BACK_OFF_S[0] * 1000),
        zmq.RECONNECT_IVL_MAX: int(BACK_OFF_S[1] * 1000),
        zmq.HEARTBEAT_IVL: 1000,
        zmq.HEARTBEAT_TIMEOUT: 3000,
        zmq.IPV6: "[" in endpoint,
    }
    for option, value in options.items():
        own.setsockopt(option, value)
    try:
        own.connect(endpoint)
    except zmq.ZMQError as error:
        own.close()
        reason = zmq.strerror(error.errno or 0)
        raise ValueError(
            f"endpoint {endpoint!r}: {reason}; expected tcp://HOST:PORT or ipc://PATH"
        ) from error
    return own


def apply_client(socket: zmq.Socket, keys: ClientKeys) -> None:
    """Makes a new socket prove the client's identity, and talk to this one server only."""
    socket.curve_serverkey = keys.server
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
