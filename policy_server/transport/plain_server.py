"""The server's end of the wire on plain sockets and one epoll: no thread between a robot and the policy.

It does what a ROUTER does for DEALERs (see `policy_server.transport.zmtp`), and what a server for strangers needs: everything
that a peer can make it keep is bounded, no peer has more than a few messages taken before the next one's turn, and a
connection that does not finish its greeting, or does not read its replies, ends.
"""

import contextlib
import os
import resource
import select
import socket
import time
from collections import deque

from policy_server.contract import wire
from policy_server.transport import listening, zmtp
from policy_server.transport.plain_client import AF_UNIX

MAX_PEERS = 1100
MAX_UNSENT = 1 << 18  # bytes that wait for a peer which does not read
MAX_HALF = 1 << 26  # bytes of messages that have not ended, of all peers together
_LARGE = 1 << 16  # bytes of one: below that it is not counted
STUCK_S = (
    10.0  # without a greeting, with half a message, or without reading: then the connection ends
)
_SPARE_FDS = 64  # of the process, that connections leave free: a reload opens files
_TURN = 16  # messages of one peer before the next one's turn
_MAX_PARTS = 3
_CHUNK = 1 << 14


class _Peer:
    """One connection."""

    def __init__(self, own: socket.socket, now_ns: int):
        self.socket, self.fd = own, own.fileno()
        self.identity: bytes | None = None  # until the handshake is done
        self.greeting = b""
        self.decoder = zmtp.Decoder(wire.MAX_FRAME_BYTES)
        self.frames: deque[zmtp.Frame] = deque()
        self.parts: list[bytes] = []
        self.unsent = b""
        self.progress_ns = now_ns
        self.begun_ns = 0  # when the message began that is not complete

    @property
    def n_half(self) -> int:
        """Bytes of the message that is not complete."""
        return self.decoder.n_partial + sum(map(len, self.parts))


class PlainFront:
    """Listens for DEALERs of ZeroMQ without keys.

    Attributes:
        endpoint: Where it listens, the real port included.

    Args:
        endpoint: tcp://HOST:PORT (* for a free port) or ipc://PATH.

    Raises:
        ServerError: It cannot listen there.
    """

    def __init__(self, endpoint: str):
        self._listener = listening.listen(endpoint)
        self._path = (
            endpoint[6:]
            if endpoint.startswith("ipc://") and not endpoint.startswith("ipc://@")
            else None
        )
        self.endpoint = (
            endpoint if endpoint.startswith("ipc://") else listening.name_of(self._listener)
        )
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._peers: dict[int, _Peer] = {}  # by file descriptor
        self._routes: dict[bytes, _Peer] = {}  # by routing id
        self._unread: dict[int, _Peer] = {}  # with messages that wait for their turn
        self._n_ever = 0
        self._swept_ns = 0
        self._max_peers = min(
            MAX_PEERS, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FDS, 1)
        )

    def receive(self, wait_s: float) -> list[tuple[bytes, list[bytes]]]:
        """Returns messages that have come, (routing id, frames), a few of each peer; waits for a first one.

        Args:
            wait_s: How long [s]; 0 looks what is here.
        """
        messages: list[tuple[bytes, list[bytes]]] = []
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
            except BlockingIOError:  # the event was of an older connection with this descriptor
                pass
            except OSError:
                self._drop(peer)
        if self._unread:
            self._take_turns(messages)
        if time.monotonic_ns() - self._swept_ns > 1e9:
            self._sweep()
        return messages

    def send(self, identity: bytes, data: bytes) -> bool:
        """Returns whether the message is on its way; False where the peer is gone or does not read."""
        peer = self._routes.get(identity)
        if peer is None:
            return False
        try:
            return self._write(peer, zmtp.frame(data))
        except OSError:
            self._drop(peer)
            return False

    def refresh(self) -> None:
        """There are no keys that could be read again."""

    def close(self, linger_s: float = 0.0) -> None:
        """Ends all connections; replies that wait have `linger_s` to leave [s]."""
        self._linger(time.monotonic_ns() + int(linger_s * 1e9))
        for peer in list(self._peers.values()):
            self._drop(peer)
        if self._listener.fileno() >= 0:
            self._listener.close()
            self._epoll.close()
            if self._path is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)

    def _linger(self, until_ns: int) -> None:
        """Sends what waits, to every peer that reads."""
        writable, waiting = (
            select.poll(),
            {fd: peer for fd, peer in self._peers.items() if peer.unsent},
        )
        for fd in waiting:  # poll, not select: that refuses descriptors from 1024 on
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
                listening.tune(own)
            self._peers[own.fileno()] = _Peer(own, time.monotonic_ns())
            self._epoll.register(own, select.EPOLLIN)
            own.send(zmtp.greeting())

    def _read(self, peer: _Peer) -> None:
        """Takes in what has come from one peer. Raises OSError where its connection must end."""
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
        """Finishes the handshake: a peer that says who it is takes over from its own older connection."""
        if properties.get(b"socket-type") not in (b"DEALER", b"REQ"):
            raise zmtp.ZmtpError(f"socket type {properties.get(b'socket-type')!r}, expected DEALER")
        identity = properties.get(b"identity", b"")
        if not identity or identity[0] == 0 or len(identity) > zmtp.MAX_IDENTITY:
            self._n_ever += 1
            identity = b"\0" + self._n_ever.to_bytes(8, "big")
        if identity in self._routes:
            self._drop(self._routes[identity])
        peer.identity = identity
        self._routes[identity] = peer
        self._write(peer, zmtp.ready(b"ROUTER"))

    def _take(self, peer: _Peer, messages: list[tuple[bytes, list[bytes]]]) -> None:
        """Moves a few of a peer's messages to the list; what is left waits for its next turn."""
        n, frames = 0, peer.frames
        while frames and n < _TURN and peer.identity is not None:
            flags, body = frames.popleft()
            n += 1
            if flags & zmtp.COMMAND:
                answer = zmtp.pong(body)
                if answer is not None:
                    self._write(peer, answer)
            elif not flags & zmtp.MORE:
                messages.append((peer.identity, [*peer.parts, body]))
                peer.parts = []
            else:
                peer.parts.append(body)
                if len(peer.parts) > _MAX_PARTS or sum(map(len, peer.parts)) > wire.MAX_FRAME_BYTES:
                    raise zmtp.ZmtpError("message of too many frames")
            if not peer.parts:  # a ping does not make half a message younger
                peer.begun_ns = 0
        if frames:
            self._unread[peer.fd] = peer
        if peer.parts or peer.decoder.n_partial:
            peer.begun_ns = peer.begun_ns or time.monotonic_ns()
            if (
                peer.n_half > _LARGE
                and sum(each.n_half for each in self._peers.values()) > MAX_HALF
            ):
                raise zmtp.ZmtpError("too many large messages that do not end")

    def _take_turns(self, messages: list[tuple[bytes, list[bytes]]]) -> None:
        unread, self._unread = self._unread, {}
        for peer in unread.values():
            try:
                self._take(peer, messages)
            except OSError:
                self._drop(peer)

    def _write(self, peer: _Peer, data: bytes) -> bool:
        """Returns whether all was sent or waits to be. Raises OSError where the connection is broken."""
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
            peer.unsent, peer.progress_ns = data[n:], time.monotonic_ns()
            self._epoll.modify(peer.fd, select.EPOLLIN | select.EPOLLOUT)
        return True

    def _flush(self, peer: _Peer) -> None:
        """Sends on what could not be sent at once."""
        if peer.unsent:
            peer.unsent = peer.unsent[peer.socket.send(peer.unsent) :]
            peer.progress_ns = time.monotonic_ns()
        if not peer.unsent:
            self._epoll.modify(peer.fd, select.EPOLLIN)

    def _sweep(self) -> None:
        """Ends connections that stand still: no greeting, half a message, or replies that nobody reads."""
        self._swept_ns = now_ns = time.monotonic_ns()
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
