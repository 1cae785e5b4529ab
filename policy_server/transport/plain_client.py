"""A client's connection on a plain socket, without a thread between the caller and the wire."""

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
from policy_server.transport.address import AF_UNIX, host_and_port, unix_path
from policy_server.transport.names import MAX_WAIT_S, Address, Addresses

BACK_OFF_S = (0.02, 0.5)  # Before the second attempt to connect, and at most.
HANDSHAKE_S = 2.0
SILENCE_S = 3.0  # A server that owes an answer and says nothing for so long counts as gone.
IDLE_NS = 500_000_000  # A connection that paused for so long is checked before it is used.
_CHUNK = 1 << 16
_NAP_NS = 20_000_000  # The kernel rounds it up to its own ticks, so nearer deadlines get a select.
_SELECT_FDS = 1024  # select() refuses descriptors from here on; poll() rounds up to milliseconds.
_DONTWAIT = socket.MSG_DONTWAIT


class PlainLink:
    """A `Link` that speaks as a DEALER on a plain socket. It keeps deadlines to microseconds.

    Attributes:
        trouble: Why there is no connection, as far as that is known.

    Args:
        endpoint: tcp://HOST:PORT or ipc://PATH.
        identity: Routing id, which names the session on the server.

    Raises:
        ValueError: The endpoint is neither.
    """

    def __init__(self, endpoint: str, identity: bytes):
        path = unix_path(endpoint)
        self._addresses = None if path is not None else Addresses(*host_and_port(endpoint))
        self._path = path
        self.trouble = ""
        self._identity = identity
        self._socket: socket.socket | None = None
        self._open = False
        self._handshake: Iterator[bool] | None = None
        self._wants_write = True
        self._handshake_until_ns = 0
        self._decoder = zmtp.Decoder(wire.MAX_FRAME_BYTES)
        self._frames: deque[bytes] = deque()
        self._part = b""
        self._attempt_ns = 0  # When the next attempt to connect may begin.
        self._back_off_s = BACK_OFF_S[0]
        self._used_ns = 0
        self._asked_ns = 0  # When the oldest request without a sign of life was sent; 0: none.

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
        """See `Link`. Returns None at once when the connection, and so the answer, is lost."""
        while not self._frames:
            if not self._open:
                return None
            if deadline_ns - time.monotonic_ns() > 2 * _NAP_NS:
                # Sleeps in the kernel for _NAP_NS at most: one system call instead of two.
                self._read(0)
                continue
            if not self._wait(False, deadline_ns):
                if self._asked_ns and time.monotonic_ns() - self._asked_ns > SILENCE_S * 1e9:
                    self._lost()
                return None
            self._read()
        return self._frames.popleft()

    def close(self) -> None:
        """See `Link`."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._handshake = None
        self._open = False
        self._part = b""
        self._asked_ns = 0

    def _wait(self, writable: bool, deadline_ns: int) -> bool:
        """Returns whether the socket can be written, or else read, before the deadline."""
        assert self._socket is not None
        left_s = min(max((deadline_ns - time.monotonic_ns()) * 1e-9, 0), MAX_WAIT_S)
        if self._socket.fileno() >= _SELECT_FDS and hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT if writable else select.POLLIN)
            return bool(poll.poll(left_s * 1e3))
        mine = (self._socket,)
        if writable:
            return any(select.select((), mine, (), left_s))
        return any(select.select(mine, (), (), left_s))

    def _write(self, data: bytes, deadline_ns: int) -> bool:
        """Returns whether all data was sent. If not, closes: half a frame spoils the stream."""
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
        """Reads what has come, and closes a broken connection. `flags` 0 waits up to _NAP_NS."""
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
        """Keeps messages and answers pings. Raises OSError where the connection must end."""
        for flags, body in frames:
            if flags & zmtp.COMMAND:
                self._answer(body)
            elif flags & zmtp.MORE:
                self._part += body
                if len(self._part) > wire.MAX_FRAME_BYTES:
                    raise zmtp.ZmtpError("message without an end")
            else:
                self._frames.append(self._part + body)
                self._part = b""

    def _answer(self, command: bytes) -> None:
        """Answers a ping, unless the server does not read."""
        pong = zmtp.pong(command)
        if pong is None or self._socket is None:
            return
        with contextlib.suppress(BlockingIOError):
            if self._socket.send(pong, _DONTWAIT) < len(pong):
                raise ConnectionAbortedError("half a frame was sent")

    def _catch_up(self) -> None:
        """After a pause, answers the pings that came, and notices that the server has closed."""
        now_ns = time.monotonic_ns()
        self._used_ns = now_ns
        while self._open and self._wait(False, now_ns):
            self._read()

    def _lost(self) -> None:
        """Closes the connection, and doubles the time before the next attempt."""
        self.close()
        self._attempt_ns = time.monotonic_ns() + int(self._back_off_s * 1e9)
        self._back_off_s = min(2 * self._back_off_s, BACK_OFF_S[1])

    def _connect(self, deadline_ns: int) -> bool:
        """Returns whether it is connected in time. The next call continues an attempt."""
        while not self._open:
            now_ns = time.monotonic_ns()
            if self._handshake is None:
                time.sleep(max(min(self._attempt_ns, deadline_ns) - now_ns, 0) * 1e-9)
                if self._attempt_ns > max(deadline_ns, now_ns) or not self._begin(deadline_ns):
                    return False
            elif self._wait(self._wants_write, min(deadline_ns, self._handshake_until_ns)):
                self._step()
            elif time.monotonic_ns() >= self._handshake_until_ns:
                self._failed(TimeoutError("no answer to the greeting"))
            elif time.monotonic_ns() >= deadline_ns:
                return False
        return True

    def _begin(self, deadline_ns: int) -> bool:
        """Returns False where the host's name is still being looked up at `deadline_ns`."""
        try:
            address = self._next_address(deadline_ns)
        except OSError as error:
            self._failed(error)
            return True
        if address is None:
            self.trouble = "the look-up of the host's name has not been answered"
            return False
        self._handshake = self._shake_hands(*address)
        self._handshake_until_ns = time.monotonic_ns() + int(HANDSHAKE_S * 1e9)
        self._step()
        return True

    def _next_address(self, deadline_ns: int) -> Address | tuple[int, str] | None:
        if self._addresses is not None:
            return self._addresses.next(deadline_ns)
        return AF_UNIX, str(self._path)

    def _failed(self, error: OSError) -> None:
        """Notes why an attempt failed, and ends it."""
        self.trouble = str(error.strerror or error)
        self._lost()

    def _step(self) -> None:
        """Continues the handshake until it has to wait."""
        assert self._handshake is not None
        try:
            self._wants_write = next(self._handshake)
        except StopIteration:
            self._open = True
            self._handshake = None
            self._back_off_s = BACK_OFF_S[0]
            self.trouble = ""
        except OSError as error:
            self._failed(error)

    def _shake_hands(self, family: int, address: tuple | str) -> Iterator[bool]:
        """Connects and greets. Yields whether it waits to write, else to read. Raises OSError."""
        self._socket = own = socket.socket(family, socket.SOCK_STREAM)
        own.setblocking(False)
        if family != AF_UNIX:
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = own.connect_ex(address)
        if code == errno.EINPROGRESS:
            yield True
            code = own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        own.send(zmtp.greeting())
        greeting = b""
        while len(greeting) < zmtp.GREETING_BYTES:
            yield False
            greeting += _receive(own, zmtp.GREETING_BYTES - len(greeting))
            zmtp.check_greeting(greeting)
        own.send(zmtp.ready(b"DEALER", self._identity))
        self._decoder = zmtp.Decoder(wire.MAX_FRAME_BYTES)
        frames = []
        while not frames:
            yield False
            frames = self._decoder.feed(_receive(own, _CHUNK))
        zmtp.parse_ready(frames[0].body, frames[0].flags)
        own.setblocking(True)  # For _NAP_NS at most.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, _NAP_NS // 1000))
        self._sort(frames[1:])


def _receive(own: socket.socket, n_bytes: int) -> bytes:
    """Returns up to `n_bytes` that have come. Raises ConnectionResetError at the stream's end."""
    data = own.recv(n_bytes)
    if not data:
        raise ConnectionResetError("closed by the server")
    return data
