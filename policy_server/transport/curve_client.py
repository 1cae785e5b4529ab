"""A client's connection through libzmq, which encrypts it with CURVE."""

import time

import zmq

from policy_server.contract import wire
from policy_server.transport.address import host_and_port, unix_path
from policy_server.transport.keys import ClientKeys
from policy_server.transport.names import MAX_WAIT_S, Addresses, tcp_text
from policy_server.transport.plain_client import BACK_OFF_S, HANDSHAKE_S

_NAP_NS = 50_000  # libzmq waits in whole milliseconds, so the last one is slept through in naps.


class CurveLink:
    """A `Link` on a DEALER of libzmq, with CURVE.

    Attributes:
        trouble: Why there is no connection, as far as that is known.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        identity: Routing id, which names the session on the server.
        keys: The client's keys.

    Raises:
        ValueError: libzmq does not understand the endpoint.
    """

    def __init__(self, endpoint: str, identity: bytes, keys: ClientKeys):
        is_tcp = unix_path(endpoint) is None
        self._addresses = Addresses(*host_and_port(endpoint)) if is_tcp else None
        self._socket = new_dealer(identity, keys)
        self._connected = ""  # The endpoint in figures; empty before the look-up has ended.
        self._begun_ns = 0
        self.trouble = ""
        if self._addresses is None or self._addresses.is_literal:
            connect_dealer(self._socket, endpoint)
            self._connected = endpoint

    def send(self, frame: bytes, deadline_ns: int) -> bool:
        """See `Link`."""
        while not self._connected:
            if not self._begin(deadline_ns):
                return False
        while True:
            try:
                self._socket.send(frame, zmq.NOBLOCK)
                return True
            except zmq.Again:
                if not self._wait(zmq.POLLOUT, deadline_ns):
                    self._forget_name()
                    return False

    def receive(self, deadline_ns: int) -> bytes | None:
        """See `Link`."""
        if not self._wait(zmq.POLLIN, deadline_ns):
            return None
        return b"".join(self._socket.recv_multipart(zmq.NOBLOCK))

    def close(self) -> None:
        """See `Link`."""
        self._socket.close(linger=0)

    def _begin(self, deadline_ns: int) -> bool:
        """Connects to the next address of the host. Returns False at the deadline."""
        assert self._addresses is not None
        try:
            address = self._addresses.next(deadline_ns)
        except OSError as error:
            self.trouble = str(error)
            left_s = (deadline_ns - time.monotonic_ns()) * 1e-9
            time.sleep(min(max(left_s, 0), BACK_OFF_S[1]))
            return left_s > 0
        if address is None:
            self.trouble = "the look-up of the host's name has not been answered"
            return False
        self.trouble = ""
        self._connected = tcp_text(address)
        self._begun_ns = time.monotonic_ns()
        connect_dealer(self._socket, self._connected)
        return True

    def _forget_name(self) -> None:
        """Makes the next call look the name up again, unless an attempt has just begun."""
        is_named = self._addresses is not None and not self._addresses.is_literal
        if is_named and time.monotonic_ns() - self._begun_ns > HANDSHAKE_S * 1e9:
            self._socket.disconnect(self._connected)
            self._connected = ""

    def _wait(self, event: int, deadline_ns: int) -> bool:
        """Returns whether the socket is ready before the deadline."""
        while True:
            left_ns = deadline_ns - time.monotonic_ns()
            left_ms = min(max(left_ns // 1_000_000, 0), int(MAX_WAIT_S * 1000))
            if self._socket.poll(left_ms, event):
                return True
            if left_ns <= 0:
                return False
            if left_ns < 1_000_000:
                time.sleep(min(left_ns, _NAP_NS) * 1e-9)


def new_dealer(identity: bytes, keys: ClientKeys | None = None) -> zmq.Socket:
    """Returns a DEALER of libzmq that is not connected yet.

    Args:
        identity: Routing id, which names the session on the server.
        keys: The client's keys. None for a server without keys.
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
    }
    for option, value in options.items():
        own.setsockopt(option, value)
    return own


def connect_dealer(own: zmq.Socket, endpoint: str) -> None:
    """Makes a DEALER connect by itself, and closes it where the endpoint is wrong.

    Args:
        own: The DEALER.
        endpoint: tcp://HOST:PORT with the host in figures, or ipc://PATH. libzmq would look a name
            up in a thread that its end waits for.

    Raises:
        ValueError: libzmq does not understand the endpoint.
    """
    own.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        own.connect(endpoint)
    except zmq.ZMQError as error:
        own.close()
        reason = zmq.strerror(error.errno or 0)
        raise ValueError(
            f"endpoint {endpoint!r}: {reason}; expected tcp://HOST:PORT or ipc://PATH"
        ) from error


def apply_client(socket: zmq.Socket, keys: ClientKeys) -> None:
    """Makes a new socket prove the client's identity, and talk to this one server only."""
    socket.curve_serverkey = keys.server
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
