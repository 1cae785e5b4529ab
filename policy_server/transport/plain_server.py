"""The server's end of the wire on plain sockets, without a thread between robot and policy.

It does for DEALERs what a ROUTER does (see `policy_server.transport.zmtp`), and it is safe against
hostile peers. Everything that a peer can make it store is bounded. A peer has only a few messages
taken before the next peer's turn. A connection ends that does not finish its greeting, or does not
read its replies.
"""

import contextlib
import resource
import select
import socket
import time
from collections import deque

from policy_server.contract import wire
from policy_server.observe.logs import Occasional, log
from policy_server.transport import zmtp
from policy_server.transport.address import (
    AF_UNIX,
    SocketFile,
    open_listener,
    tcp_endpoint,
    tune_tcp,
)

MAX_PEERS = 1100
MAX_UNSENT = 1 << 18  # Bytes that wait for a peer that does not read.
MAX_HALF = 1 << 26  # Bytes of incomplete messages, of all peers together.
STUCK_S = 10.0  # A connection without a greeting, or with half a message, may last so long.
_LARGE = 1 << 16  # Bytes of an incomplete message from which MAX_HALF is enforced.
_SPARE_FDS = 64  # The process's descriptors that connections leave free: a reload opens files.
_LOG_PERIOD_S = 10.0
_TURN = 16  # Messages of one peer before the next peer's turn.
_MAX_PARTS = 3
_CHUNK = 1 << 14

Messages = list[tuple[bytes, list[bytes]]]


class _Peer:
    """The state of one connection."""

    def __init__(self, own: socket.socket, now_ns: int):
        self.socket = own
        self.fd = own.fileno()
        self.identity: bytes | None = None  # None until the handshake is done.
        self.greeting = b""
        self.decoder = zmtp.Decoder(wire.MAX_FRAME_BYTES)
        self.frames: deque[zmtp.Frame] = deque()
        self.parts: list[bytes] = []
        self.unsent = b""
        self.progress_ns = now_ns  # When the connection began, or last took waiting replies.
        self.begun_ns = 0  # When the incomplete message began.

    @property
    def n_half(self) -> int:
        """Bytes of the incomplete message."""
        return self.decoder.n_partial + sum(map(len, self.parts))


class PlainFront:
    """A `Front` for ZeroMQ DEALERs without keys.

    Attributes:
        endpoint: The endpoint it listens on, with the real port.

    Args:
        endpoint: tcp://HOST:PORT (port * picks a free one) or ipc://PATH.

    Raises:
        ServerError: It cannot listen there.
    """

    def __init__(self, endpoint: str):
        self._listener = open_listener(endpoint)
        self._file = SocketFile(endpoint)
        is_ipc = self._listener.family == AF_UNIX
        self.endpoint = endpoint if is_ipc else tcp_endpoint(self._listener)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._peers: dict[int, _Peer] = {}  # By file descriptor.
        self._routes: dict[bytes, _Peer] = {}  # By routing id.
        self._unread: dict[int, _Peer] = {}  # Peers with messages that wait for their turn.
        self._n_unnamed = 0
        self._swept_ns = 0
        self._take_overs = Occasional(_LOG_PERIOD_S)
        n_descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_peers = min(MAX_PEERS, max(n_descriptors - _SPARE_FDS, 1))

    def receive(self, wait_s: float) -> Messages:
        """See `Front`. Returns only a few messages of each peer."""
        messages: Messages = []
        for fd, event in self._epoll.poll(0 if self._unread else wait_s):
            peer = self._peers.get(fd)
            if peer is None:
                self._accept()
                continue
            try:
                if event & select.EPOLLOUT:
                    self._flush(peer)
                if event & ~select.EPOLLOUT and fd not in self._unread:
                    self._read(peer)
                    self._take(peer, messages)
            except BlockingIOError:
                pass  # The event belongs to an older connection with this descriptor.
            except OSError:
                self._drop(peer)
        if self._unread:
            self._take_turns(messages)
        if time.monotonic_ns() - self._swept_ns > 1e9:
            self._sweep()
        return messages

    def send(self, identity: bytes, data: bytes) -> bool:
        """See `Front`."""
        peer = self._routes.get(identity)
        if peer is None:
            return False
        try:
            return self._write(peer, zmtp.frame(data))
        except OSError:
            self._drop(peer)
            return False

    def refresh(self) -> None:
        """See `Front`."""

    def close(self, linger_s: float = 0.0) -> None:
        """See `Front`."""
        self._linger(time.monotonic_ns() + int(linger_s * 1e9))
        for peer in list(self._peers.values()):
            self._drop(peer)
        if self._listener.fileno() >= 0:
            self._listener.close()
            self._epoll.close()
            self._file.remove()

    def _linger(self, until_ns: int) -> None:
        """Sends waiting replies to every peer that reads."""
        writable = select.poll()  # select() refuses descriptors from 1024 on.
        waiting = {fd: peer for fd, peer in self._peers.items() if peer.unsent}
        for fd in waiting:
            writable.register(fd, select.POLLOUT)
        while waiting and (left_ns := until_ns - time.monotonic_ns()) > 0:
            for fd, _ in writable.poll(left_ns / 1e6):
                with contextlib.suppress(OSError):
                    self._flush(waiting[fd])
                    if waiting[fd].unsent:
                        continue
                writable.unregister(fd)
                del waiting[fd]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            own, _ = self._listener.accept()
            if len(self._peers) >= self._max_peers:
                own.close()
                return
            own.setblocking(False)
            if own.family != AF_UNIX:
                tune_tcp(own)
            self._peers[own.fileno()] = _Peer(own, time.monotonic_ns())
            self._epoll.register(own, select.EPOLLIN)
            own.send(zmtp.greeting())

    def _read(self, peer: _Peer) -> None:
        """Reads what has come from one peer. Raises OSError where its connection must end."""
        data = peer.socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("closed by the client")
        if len(peer.greeting) < zmtp.GREETING_BYTES:
            missing = zmtp.GREETING_BYTES - len(peer.greeting)
            peer.greeting += data[:missing]
            zmtp.check_greeting(peer.greeting)
            data = data[missing:]
        peer.frames.extend(peer.decoder.feed(data))
        if peer.identity is None and peer.frames:
            flags, body = peer.frames.popleft()
            self._introduce(peer, zmtp.parse_ready(body, flags))

    def _introduce(self, peer: _Peer, properties: dict[bytes, bytes]) -> None:
        """Finishes the handshake. Ends an older connection with this routing id."""
        socket_type = properties.get(b"socket-type")
        if socket_type not in (b"DEALER", b"REQ"):
            raise zmtp.ZmtpError(f"socket type {socket_type!r}, expected DEALER")
        identity = properties.get(b"identity", b"")
        if not identity or identity[0] == 0 or len(identity) > zmtp.MAX_IDENTITY:
            self._n_unnamed += 1
            identity = b"\0" + self._n_unnamed.to_bytes(8, "big")
        if identity in self._routes:
            self._take_over(self._routes[identity], peer)
        peer.identity = identity
        self._routes[identity] = peer
        self._write(peer, zmtp.ready(b"ROUTER"))

    def _take_over(self, old: _Peer, new: _Peer) -> None:
        """Ends an older connection with the same routing id, and says so. Ids are no log's."""
        old_from = _origin(old.socket)
        new_from = _origin(new.socket)
        self._drop(old)
        if (n_suppressed := self._take_overs.due(old_from.rpartition(":")[0])) is not None:
            log(
                "connection_taken_over",
                level="warning",
                old_from=old_from,
                new_from=new_from,
                n_suppressed=n_suppressed,
                reason="a second connection has the same routing id: a client that lost its "
                "connection, or two clients with one id",
            )

    def _take(self, peer: _Peer, messages: Messages) -> None:
        """Moves a few of a peer's messages to the list. The rest waits for the peer's next turn."""
        n = 0
        frames = peer.frames
        while frames and n < _TURN and peer.identity is not None:
            flags, body = frames.popleft()
            n += 1
            if flags & zmtp.COMMAND:
                pong = zmtp.pong(body)
                if pong is not None:
                    self._write(peer, pong)
            elif not flags & zmtp.MORE:
                messages.append((peer.identity, [*peer.parts, body]))
                peer.parts = []
            else:
                peer.parts.append(body)
                if len(peer.parts) > _MAX_PARTS or sum(map(len, peer.parts)) > wire.MAX_FRAME_BYTES:
                    raise zmtp.ZmtpError("message of too many frames")
            if not peer.parts:  # A ping does not make half a message younger.
                peer.begun_ns = 0
        if frames:
            self._unread[peer.fd] = peer
        if peer.parts or peer.decoder.n_partial:
            self._check_half(peer)

    def _check_half(self, peer: _Peer) -> None:
        """Raises ZmtpError where the incomplete messages are too large together."""
        peer.begun_ns = peer.begun_ns or time.monotonic_ns()
        if peer.n_half > _LARGE and sum(each.n_half for each in self._peers.values()) > MAX_HALF:
            raise zmtp.ZmtpError("too many large messages that do not end")

    def _take_turns(self, messages: Messages) -> None:
        waiting = list(self._unread.values())
        self._unread = {}
        for peer in waiting:
            try:
                self._take(peer, messages)
            except OSError:
                self._drop(peer)

    def _write(self, peer: _Peer, data: bytes) -> bool:
        """Returns whether the data was sent or waits. Raises OSError where the connection broke."""
        if peer.unsent:
            if len(peer.unsent) + len(data) > MAX_UNSENT:
                return False
            peer.unsent += data
            return True
        try:
            n = peer.socket.send(data)
        except BlockingIOError:
            n = 0
        if n < len(data):
            peer.unsent = data[n:]
            peer.progress_ns = time.monotonic_ns()
            self._epoll.modify(peer.fd, select.EPOLLIN | select.EPOLLOUT)
        return True

    def _flush(self, peer: _Peer) -> None:
        """Sends waiting replies."""
        if peer.unsent:
            peer.unsent = peer.unsent[peer.socket.send(peer.unsent) :]
            peer.progress_ns = time.monotonic_ns()
        if not peer.unsent:
            self._epoll.modify(peer.fd, select.EPOLLIN)

    def _sweep(self) -> None:
        """Ends connections that stand still: no greeting, half a message, or unread replies."""
        now_ns = time.monotonic_ns()
        self._swept_ns = now_ns
        oldest_ns = now_ns - int(STUCK_S * 1e9)
        for peer in list(self._peers.values()):
            waits = peer.identity is None or peer.unsent
            if (waits and peer.progress_ns < oldest_ns) or 0 < peer.begun_ns < oldest_ns:
                self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.fd, None) is None:
            return
        self._unread.pop(peer.fd, None)
        if peer.identity is not None and self._routes.get(peer.identity) is peer:
            del self._routes[peer.identity]
        peer.identity = None
        with contextlib.suppress(OSError):
            self._epoll.unregister(peer.fd)
        peer.socket.close()


def _origin(own: socket.socket) -> str:
    """Returns where a connection comes from: HOST:PORT, or ipc."""
    try:
        name = own.getpeername()
    except OSError:
        return "unknown"
    return ":".join(map(str, name[:2])) if isinstance(name, tuple) else "ipc"
