"""Peers of `PlainFront` and `PlainLink` on plain sockets, which may break every rule."""

import contextlib
import os
import socket
import threading
import time

from policy_server.transport import zmtp
from policy_server.transport.address import address_of

GREETING = bytes.fromhex("ff 0000000000000000 7f 03 00 4e554c4c") + bytes(48)
ROUTER_READY = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER\x08Identity\x00\x00\x00\x00"
LINK_HELLO = GREETING + zmtp.ready(b"DEALER", b"me")  # A link's handshake.
ASK = zmtp.frame(b"ask")
ANSWER = zmtp.frame(b"answer")
LONG_S = 10.0  # A deadline that no test waits for.


class Raw:
    """A peer of a front on a plain socket. With `hello` it sends the whole handshake."""

    def __init__(self, front, identity=b"", hello=True):
        family, address = address_of(front.endpoint)
        self.front = front
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(5)
        self.socket.connect(address)
        if hello:
            self.socket.sendall(GREETING + zmtp.ready(b"DEALER", identity))
            pump(front, lambda got: identity in front._routes or not identity)

    def send(self, body, flags=0):
        self.socket.sendall(zmtp.frame(body, flags))

    def read(self, n_bytes):
        """Returns `n_bytes`, or fewer where the connection ends. The front runs meanwhile."""
        data = b""
        until_s = time.monotonic() + 5
        while len(data) < n_bytes:
            assert time.monotonic() < until_s, f"{len(data)} of {n_bytes} bytes came within 5 s"
            self.front.receive(0)
            self.socket.settimeout(0.001)
            with contextlib.suppress(TimeoutError):
                more = self.socket.recv(n_bytes - len(data))
                if not more:
                    break
                data += more
        return data

    def ended(self):
        """Returns whether the front has closed the connection. Reads what is left."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1 << 16):
                pass
            return True
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


def pump(front, done, timeout_s=5.0):
    """Returns the messages that the front receives until `done(messages so far)`."""
    messages = []
    until_s = time.monotonic() + timeout_s
    while not done(messages):
        assert time.monotonic() < until_s, f"not within {timeout_s} s; got {len(messages)} messages"
        messages += front.receive(0.005)
    return messages


def check_serves(front, peer, identity):
    """Checks that a message goes there and one comes back."""
    peer.send(b"ask")
    assert pump(front, len) == [(identity, [b"ask"])]
    assert front.send(identity, b"answer")
    assert peer.read(8) == b"\0\6answer"


def met(peer):
    """Returns the peer after it has read the handshake."""
    assert peer.read(64 + len(ROUTER_READY)) == GREETING + ROUTER_READY
    return peer


def within(wait_s):
    """Returns the monotonic time in `wait_s` [ns]."""
    return time.monotonic_ns() + int(wait_s * 1e9)


def read(conn, n_bytes):
    """Returns exactly `n_bytes`."""
    data = b""
    while len(data) < n_bytes:
        more = conn.recv(n_bytes - len(data))
        assert more, f"the link closed after {data[-80:]!r}"
        data += more
    return data


def greet(conn):
    """Shakes hands with a link."""
    conn.sendall(GREETING + ROUTER_READY)
    assert read(conn, len(LINK_HELLO)) == LINK_HELLO


def answer(conn):
    """Answers one request."""
    assert read(conn, len(ASK)) == ASK
    conn.sendall(ANSWER)


def meet(conn):
    """Shakes hands and answers one request."""
    greet(conn)
    answer(conn)


def until_closed(conn):
    """Returns what comes until the link closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := conn.recv(1 << 16):
            data += more
    return data


class Server:
    """Runs one script for each connection in turn, and closes the connection afterwards."""

    def __init__(self, listener, scripts):
        self._listener = listener
        self._scripts = scripts
        self._error = None
        self.n_accepted = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for script in self._scripts:
                conn, _ = self._listener.accept()
                self.n_accepted += 1
                with conn:
                    conn.settimeout(LONG_S)
                    script(conn)
        except Exception as error:
            self._error = error

    def check(self):
        """Waits for the last script, and raises what a script raised."""
        self._thread.join(LONG_S)
        assert not self._thread.is_alive(), "the server waits for the link"
        if self._error is not None:
            raise self._error


@contextlib.contextmanager
def listening(endpoint):
    """Yields a listener and its endpoint. tcp://127.0.0.1:0 picks a free port."""
    family, address = address_of(endpoint)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        if family == socket.AF_INET:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        listener.settimeout(LONG_S)
        if isinstance(address, str):
            stack.callback(os.unlink, address)
        yield (
            listener,
            "tcp://{}:{}".format(*listener.getsockname()) if family == socket.AF_INET else endpoint,
        )


def check_answers(link):
    """Checks that a request of `link` is answered."""
    assert link.send(b"ask", within(LONG_S))
    assert link.receive(within(LONG_S)) == b"answer"
