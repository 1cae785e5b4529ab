"""A client's connection on a plain socket: no thread between the caller and the wire (see `policy_server.transport.zmtp`)."""

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator

from policy_server.contract import wire
from policy_server.transport import zmtp

BACK_OFF_S = (0.02, 0.5)  # before the second attempt to connect, and at most
HANDSHAKE_S = 2.0
SILENCE_S = 3.0  # of a server that has something to answer, until it counts as gone
IDLE_NS = 500_000_000  # after a pause of this length, a connection is looked at before it is used
AF_UNIX = getattr(socket, "AF_UNIX", -1)
_CHUNK = 1 << 16
_NAP_NS = 20_000_000  # the kernel rounds this up to its own ticks: deadlines nearer than twice that get a select
_SELECT_FDS = 1024  # select() refuses descriptors from here on; poll() rounds the time up to whole milliseconds
_DONTWAIT = socket.MSG_DONTWAIT


class PlainLink:
    """A DEALER on a plain socket: no thread between the caller and the wire, deadlines exact to microseconds.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        identity: Routing id: the session on the server.

    Raises:
        ValueError: The endpoint is neither.
    """

    def __init__(self, endpoint: str, identity: bytes):
        self._family, self._address = address_of(endpoint)
        self._identity = identity
        self._socket: socket.socket | None = None
        self._open = False
        self._handshake: Iterator[bool] | None = None
        self._decoder = zmtp.Decoder(wire.MAX_FRAME_BYTES)
        self._frames: deque[bytes] = deque()
        self._part = b""
        self._attempt_ns = self._handshake_until_ns = 0
        self._back_off_s = BACK_OFF_S[0]
        self._used_ns = self._asked_ns = 0
        self._wants_write = True

    def send(self, frame: bytes, deadline_ns: int) -> bool:
        """See `Link`."""
        now_ns = time.monotonic_ns()
        if self._open and now_ns - self._used_ns > IDLE_NS:
            self._catch_up()
        self._used_ns = now_ns
        if not self._open and not self._connect(deadline_ns):
            return False
        self._asked_ns = self._asked_ns or now_ns
        return self._write(zmtp.frame(frame), deadline_ns)

    def receive(self, deadline_ns: int) -> bytes | None:
        """See `Link`; None also as soon as the connection is lost, since the answer is lost with it."""
        while not self._frames:
            if not self._open:
                return None
            if deadline_ns - time.monotonic_ns() > 2 * _NAP_NS:
                self._read(
                    0
                )  # sleeps in the kernel for _NAP_NS at most: one system call instead of two
                continue
            if not self._wait(False, deadline_ns):
                if self._asked_ns and time.monotonic_ns() - self._asked_ns > SILENCE_S * 1e9:
                    self._lost()  # asked, and heard nothing since
                return None
            self._read()
        return self._frames.popleft()

    def close(self) -> None:
        """See `Link`."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._handshake, self._open = None, None, False
        self._part, self._asked_ns = b"", 0

    def _wait(self, writable: bool, deadline_ns: int) -> bool:
        """Returns whether the socket can be read, or written, at the latest at `deadline_ns`."""
        assert self._socket is not None
        left_s = max((deadline_ns - time.monotonic_ns()) * 1e-9, 0)
        if self._socket.fileno() >= _SELECT_FDS and hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT if writable else select.POLLIN)
            return bool(poll.poll(left_s * 1e3))
        mine = (self._socket,)
        ready = (
            select.select((), mine, (), left_s) if writable else select.select(mine, (), (), left_s)
        )
        return any(ready)

    def _write(self, data: bytes, deadline_ns: int) -> bool:
        """Returns whether all of it was sent; where it was not, the connection is closed: half a frame spoils it."""
        assert self._socket is not None
        try:
            while True:
                try:
                    n = self._socket.send(data, _DONTWAIT)
                except BlockingIOError:
                    n = 0
                if n == len(data):
                    return True
                data = data[n:]
                if not self._wait(True, deadline_ns):
                    break
        except OSError:
            pass
        self._lost()
        return False

    def _read(self, flags: int = _DONTWAIT) -> None:
        """Takes in what has come, or comes within _NAP_NS if `flags` is 0; a broken connection is closed."""
        assert self._socket is not None
        try:
            data = self._socket.recv(_CHUNK, flags)
            if not data:
                raise ConnectionResetError("closed by the server")
            self._sort(self._decoder.feed(data))
            self._asked_ns = 0
        except BlockingIOError:
            pass
        except OSError:
            self._lost()

    def _sort(self, frames: list[zmtp.Frame]) -> None:
        """Keeps messages, answers pings."""
        for flags, body in frames:
            if flags & zmtp.COMMAND:
                answer = zmtp.pong(body)
                if answer is not None and self._socket is not None:
                    with contextlib.suppress(
                        BlockingIOError
                    ):  # it has enough to read; the messages must not be lost
                        if self._socket.send(answer, _DONTWAIT) < len(answer):
                            raise ConnectionAbortedError("half a frame was sent")
            elif flags & zmtp.MORE:
                self._part += body
                if len(self._part) > wire.MAX_FRAME_BYTES:
                    raise zmtp.ZmtpError("message without an end")
            else:
                self._frames.append(self._part + body)
                self._part = b""

    def _catch_up(self) -> None:
        """After a pause: answers the pings that came, and notices a connection that the server has closed."""
        self._used_ns = now_ns = time.monotonic_ns()
        while self._open and self._wait(False, now_ns):
            self._read()

    def _lost(self) -> None:
        """Closes, and lets the next attempt wait a little longer than the one before."""
        self.close()
        self._attempt_ns = time.monotonic_ns() + int(self._back_off_s * 1e9)
        self._back_off_s = min(2 * self._back_off_s, BACK_OFF_S[1])

    def _connect(self, deadline_ns: int) -> bool:
        """Returns whether there is a connection at `deadline_ns`; an attempt under way goes on in the next call."""
        while not self._open:
            now_ns = time.monotonic_ns()
            if self._handshake is None:
                time.sleep(max(min(self._attempt_ns, deadline_ns) - now_ns, 0) * 1e-9)
                if self._attempt_ns > max(deadline_ns, now_ns):
                    return False
                self._handshake = self._shake_hands()
                self._handshake_until_ns = time.monotonic_ns() + int(HANDSHAKE_S * 1e9)
                self._step()
            elif self._wait(self._wants_write, min(deadline_ns, self._handshake_until_ns)):
                self._step()
            elif time.monotonic_ns() >= self._handshake_until_ns:
                self._lost()
            elif time.monotonic_ns() >= deadline_ns:
                return False
        return True

    def _step(self) -> None:
        """Goes on with the handshake as far as it can."""
        assert self._handshake is not None
        try:
            self._wants_write = next(self._handshake)
        except StopIteration:
            self._open, self._handshake, self._back_off_s = True, None, BACK_OFF_S[0]
        except OSError:
            self._lost()

    def _shake_hands(self) -> Iterator[bool]:
        """Connects and greets; yields whether it waits to write (True) or to read. Raises OSError where that fails."""
        self._socket = own = socket.socket(self._family, socket.SOCK_STREAM)
        own.setblocking(False)
        if self._family != AF_UNIX:
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = own.connect_ex(self._address)
        if code == errno.EINPROGRESS:
            yield True
            code = own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        own.send(zmtp.greeting())
        greeting = b""
        while len(greeting) < zmtp.GREETING_BYTES:
            yield False
            greeting += _more(own, zmtp.GREETING_BYTES - len(greeting))
            zmtp.check_greeting(greeting)
        own.send(zmtp.ready(b"DEALER", self._identity))
        self._decoder, frames = zmtp.Decoder(wire.MAX_FRAME_BYTES), []
        while not frames:
            yield False
            frames = self._decoder.feed(_more(own, _CHUNK))
        zmtp.parse_ready(frames[0].body, frames[0].flags)
        own.setblocking(True)  # for _NAP_NS at most
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, _NAP_NS // 1000))
        self._sort(frames[1:])


def address_of(endpoint: str) -> tuple[int, str | tuple[str, int]]:
    """Returns socket family and address of tcp://HOST:PORT or ipc://PATH. Raises ValueError for others."""
    scheme, separator, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if separator and scheme == "ipc" and rest:
        return AF_UNIX, "\0" + rest[1:] if rest.startswith("@") else rest
    if separator and scheme == "tcp" and host and port.isdigit() and int(port) < 65536:
        return (socket.AF_INET6 if host.startswith("[") else socket.AF_INET), (
            host.strip("[]"),
            int(port),
        )
    raise ValueError(f"endpoint {endpoint!r}: expected tcp://HOST:PORT or ipc://PATH")


def _more(own: socket.socket, n_bytes: int) -> bytes:
    """Returns some bytes that have come. Raises ConnectionResetError at the end of the stream."""
    data = own.recv(n_bytes)
    if not data:
        raise ConnectionResetError("closed by the server")
    return data
