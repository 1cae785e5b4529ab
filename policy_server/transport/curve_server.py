"""The server's end of the wire through libzmq, which encrypts it and admits known keys only."""

import contextlib
import threading
import time
from typing import NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator

from policy_server.contract import wire
from policy_server.contract.errors import ServerError
from policy_server.observe.logs import Occasional, log
from policy_server.transport.address import SocketFile, bind_error, open_listener, socket_file
from policy_server.transport.keys import KeysError, ServerKeys, read_clients

DOMAIN = "edp"
HANDSHAKE_MS = 3000  # A connection that has not proved its identity by then is closed.
_QUEUE = 64  # Messages in each direction and connection, so that a peer's memory is bounded.
_TAKE = 64  # Messages taken at once.
_REBIND_S = 5.0
_LOG_PERIOD_S = 10.0


class CurveFront:
    """A `Front` on a ROUTER of libzmq, with CURVE. Without keys it does not encrypt.

    Attributes:
        endpoint: The endpoint it listens on, with the real port.

    Args:
        endpoint: tcp://ADDRESS:PORT (port * picks a free one) or ipc://PATH.
        keys: The server's keys, or None.

    Raises:
        ServerError: It cannot listen there, or a client's key cannot be read.
    """

    def __init__(self, endpoint: str, keys: ServerKeys | None):
        self._context = zmq.Context()
        self._file: SocketFile | None = None
        self._keys = keys
        self._guard = None if keys is None else Guard(self._context, keys)
        try:
            self._socket = self._bind(endpoint)
        except ServerError:
            self._end()
            raise
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

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
        """Reads the clients' keys again. Where one was removed, ends all connections.

        libzmq checks a key once a connection and cannot end a single connection. Admitted clients
        reconnect by themselves.
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

    def _bind(self, endpoint: str) -> zmq.Socket:
        own = self._context.socket(zmq.ROUTER)
        options = {
            zmq.RCVHWM: _QUEUE,
            zmq.SNDHWM: _QUEUE,
            zmq.MAXMSGSIZE: wire.MAX_FRAME_BYTES,
            zmq.LINGER: 0,
            zmq.IPV6: "[" in endpoint,
            zmq.ROUTER_MANDATORY: 1,  # Reports a reply that cannot be delivered.
            zmq.ROUTER_HANDOVER: 1,  # A client may reconnect before its old connection ends.
            zmq.HEARTBEAT_IVL: 1000,
            zmq.HEARTBEAT_TIMEOUT: 3000,
        }
        for option, value in options.items():
            own.setsockopt(option, value)
        if self._keys is not None:
            apply_server(own, self._keys)
        try:
            if socket_file(endpoint) is not None:
                self._listen(own, endpoint)
            own.bind(endpoint)
        except zmq.ZMQError as error:
            own.close()
            raise bind_error(endpoint, error.errno, zmq.strerror(error.errno or 0)) from error
        return own

    def _listen(self, own: zmq.Socket, endpoint: str) -> None:
        """Makes libzmq use a listener of ours. It would replace, and at its end remove, any file.

        Raises:
            ServerError: The endpoint is in use, or not allowed.
        """
        if self._file is not None:
            self._file.remove()
        try:
            listener = open_listener(endpoint)
        except ServerError:
            own.close()
            raise
        self._file = SocketFile(endpoint)
        own.setsockopt(zmq.USE_FD, listener.detach())

    def _bind_again(self) -> zmq.Socket:
        """Binds as soon as libzmq's thread has released the address, which takes a moment."""
        until_ns = time.monotonic_ns() + int(_REBIND_S * 1e9)
        while True:
            try:
                return self._bind(self.endpoint)
            except ServerError:
                if time.monotonic_ns() > until_ns:
                    raise
                time.sleep(0.01)

    def _end(self) -> None:
        if self._file is not None:
            self._file.remove()
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        self._context.term()


class Changes(NamedTuple):
    """The names of clients that a refresh added and removed, and the faults of their files."""

    added: list[str]
    removed: list[str]
    faults: list[str]


class Guard:
    """Decides in its own thread which client keys may connect.

    Make it before the server's socket binds. libzmq asks once a connection. A key that `refresh` no
    longer finds is refused from then on, but its connection stays until the server's socket is
    closed.

    Args:
        context: The context of the server's socket. It takes one Guard at a time.
        keys: The server's keys, which name the folder of its clients.

    Raises:
        KeysError: A client's key cannot be read.
        ServerError: The context has a Guard already.
    """

    def __init__(self, context: zmq.Context, keys: ServerKeys):
        self._folder = keys.clients
        self._names, faults = read_clients(self._folder)
        if faults:
            raise KeysError("; ".join(faults))
        self._refusals = Occasional(_LOG_PERIOD_S)
        self._lock = threading.Lock()
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.configure_curve_callback(DOMAIN, self)
        try:
            self._authenticator.start()
        except zmq.ZMQError as error:
            self.close()
            raise ServerError(
                f"cannot check keys: {error}; use a zmq.Context for each server with keys"
            ) from error

    def callback(self, domain: str, key: bytes) -> bool:
        """Returns whether the client with this public key may connect. pyzmq calls it."""
        name = self._names.get(bytes(key))
        if name is not None:
            log("client_admitted", client=name)
        elif (n_suppressed := self._refusals.due("key")) is not None:
            text = bytes(key).decode("ascii", "replace")
            log("client_refused", level="warning", key=text, n_suppressed=n_suppressed)
        return name is not None

    def refresh(self) -> Changes:
        """Reads the clients' folder again. Clients whose files cannot be read count as removed."""
        with self._lock:
            old = self._names
            self._names, faults = read_clients(self._folder)
            added = sorted(self._names[key] for key in self._names.keys() - old.keys())
            removed = sorted(old[key] for key in old.keys() - self._names.keys())
        return Changes(added, removed, faults)

    def close(self) -> None:
        """Ends the thread. No client can connect from then on."""
        self._authenticator.stop()


def apply_server(socket: zmq.Socket, keys: ServerKeys) -> None:
    """Makes a new socket admit only clients whose key the `Guard` of its context knows."""
    socket.curve_server = True
    socket.curve_publickey = keys.public
    socket.curve_secretkey = keys.secret
    socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    # Without a Guard libzmq would admit every client. With this option it admits none.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
