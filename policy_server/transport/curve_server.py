"""Where a server's messages come from and go to: plain sockets on this machine, a ROUTER where there are keys."""

import contextlib
import select
import time
from typing import Protocol

import zmq

from policy_server.contract import wire
from policy_server.observe.logs import log
from policy_server.transport.address import ServerError
from policy_server.transport.keys import Guard, ServerKeys, apply_server
from policy_server.transport.plain_server import PlainFront

_QUEUE = 64  # messages in each direction and connection: a peer that floods, or does not read, costs no more memory
_TAKE = 64  # messages taken at once
_REBIND_S = 5.0


class Front(Protocol):
    """Receives requests and sends replies.

    Attributes:
        endpoint: Where it listens, the real port included.
    """

    endpoint: str

    def receive(self, wait_s: float) -> list[tuple[bytes, list[bytes]]]:
        """Returns messages that have come, (routing id, frames); waits `wait_s` for a first one."""
        ...

    def send(self, identity: bytes, data: bytes) -> bool:
        """Returns whether the message is on its way; False where the peer is gone or does not read."""
        ...

    def refresh(self) -> None:
        """Reads the keys of the clients again, where there are some."""
        ...

    def close(self, linger_s: float = 0.0) -> None:
        """Ends all connections; replies that wait have `linger_s` to leave [s]."""
        ...


class KeyedFront:
    """A ROUTER of libzmq: with CURVE, or without keys where there is no epoll.

    Args:
        endpoint: tcp://ADDRESS:PORT (* for a free port) or ipc://PATH.
        keys: Of the server and its clients; None for none.

    Raises:
        ServerError: It cannot listen there.
    """

    def __init__(self, endpoint: str, keys: ServerKeys | None):
        self._context, self._keys = zmq.Context(), keys
        self._guard = None if keys is None else Guard(self._context, keys)
        try:
            self._socket = self._bind(endpoint)
        except ServerError:
            self._end()
            raise
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _bind(self, endpoint: str) -> zmq.Socket:
        own = self._context.socket(zmq.ROUTER)
        own.rcvhwm = own.sndhwm = _QUEUE
        options = {zmq.MAXMSGSIZE: wire.MAX_FRAME_BYTES, zmq.LINGER: 0, zmq.IPV6: "[" in endpoint}
        options[zmq.ROUTER_MANDATORY] = (
            1  # an undeliverable reply is an error to count, not lost in silence
        )
        options[zmq.ROUTER_HANDOVER] = (
            1  # a client that reconnects before its old connection is seen dead
        )
        options |= {zmq.HEARTBEAT_IVL: 1000, zmq.HEARTBEAT_TIMEOUT: 3000}
        for option, value in options.items():
            own.setsockopt(option, value)
        if self._keys is not None:
            apply_server(own, self._keys)
        try:
            own.bind(endpoint)
        except zmq.ZMQError as error:
            own.close()
            hint = (
                "; stop the other process or choose another --bind"
                if error.errno == zmq.EADDRINUSE
                else ""
            )
            raise ServerError(
                f"cannot listen on {endpoint}: {zmq.strerror(error.errno or 0)}{hint}"
            ) from error
        return own

    def receive(self, wait_s: float) -> list[tuple[bytes, list[bytes]]]:
        """See `Front`."""
        messages: list[tuple[bytes, list[bytes]]] = []
        if wait_s and not self._socket.poll(int(wait_s * 1000)):
            return messages
        with contextlib.suppress(zmq.Again):
            while len(messages) < _TAKE:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
                messages.append((identity, frames))
        return messages

    def send(self, identity: bytes, data: bytes) -> bool:
        """See `Front`."""
        try:
            self._socket.send_multipart([identity, data], zmq.NOBLOCK)
            return True
        except zmq.ZMQError:
            return False

    def refresh(self) -> None:
        """Reads the clients' keys again; where one was removed, every connection ends, and who may comes back.

        ZeroMQ asks for a key once a connection, and cannot end a single one.
        """
        if self._guard is None:
            return
        changes = self._guard.refresh()
        log("keys_read", added=changes.added, removed=changes.removed, faults=changes.faults)
        if changes.removed:
            self._socket.close(linger=0)
            self._socket = self._bind_again()

    def close(self, linger_s: float = 0.0) -> None:
        """See `Front`."""
        if not self._socket.closed:
            self._socket.close(linger=int(linger_s * 1000))
        self._end()

    def _bind_again(self) -> zmq.Socket:
        """Binds as soon as ZeroMQ's thread has let go of the address, which takes it a moment."""
        until_ns = time.monotonic_ns() + int(_REBIND_S * 1e9)
        while True:
            try:
                return self._bind(self.endpoint)
            except ServerError:
                if time.monotonic_ns() > until_ns:
                    raise
                time.sleep(0.01)

    def _end(self) -> None:
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        self._context.term()


def listen(endpoint: str, keys: ServerKeys | None = None) -> PlainFront | KeyedFront:
    """Returns a front that listens on `endpoint`. Raises ServerError where that fails."""
    return (
        PlainFront(endpoint)
        if keys is None and hasattr(select, "epoll")
        else KeyedFront(endpoint, keys)
    )
