"""How a load generator's clients reach a policy: sockets to a server, or a policy in this process."""

import select
import time
from collections import deque
from typing import NamedTuple, Protocol

import numpy as np
import zmq

from policy_server.contract import wire
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.wire import Header, Kind, WireError
from policy_server.transport.curve_client import dealer
from policy_server.transport.keys import ClientKeys
from policy_server.transport.link import new_identity, unconnected_hint

_POLLIN, _NOBLOCK = int(zmq.POLLIN), int(zmq.NOBLOCK)  # an enum's operators would cost microseconds
BAD_REPLY = -3  # an answer that is no action of the policy's size


class Reply(NamedTuple):
    """What came back.

    Attributes:
        client: Which client received it.
        sequence: Number of the request that it says to answer, 0 where that cannot be read.
        status: Of the wire, or BAD_REPLY.
        received_ns: When it was read [ns].
        times_us: queue_us, inference_us, server_us as the other side tells them [us].
    """

    client: int
    sequence: int
    status: int
    received_ns: int
    times_us: tuple[int, int, int]


class Channel(Protocol):
    """The way to a policy. Clients are numbered from 0."""

    def send(self, client: int, sequence: int, now_ns: int, budget_us: int) -> bool:
        """Sends one request without waiting; False where it cannot be sent now."""
        ...

    def receive(self, wait_s: float) -> list[Reply]:
        """Returns the replies that are there, waiting at most this long [s] for the first."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class SocketChannel:
    """One DEALER, and so one session, for each client, all of them served by one thread.

    ZeroMQ tells of news through a file descriptor that fires once; so after every send and receive the socket's
    events are looked at, and `select`, whose timeout is in microseconds (ZeroMQ's own is in milliseconds), only
    waits while nothing is there.

    Args:
        endpoint: Of the server.
        n_clients: Sockets to open.
        payload: Every request's payload.
        reply_bytes: Size of an action chunk [bytes].
        timeout_s: How long to wait for all connections [s].
        keys: Of all clients, for a server with keys.

    Raises:
        ValueError: ZeroMQ does not understand the endpoint.
        PolicyTimeout: Not all are connected in time.
    """

    def __init__(
        self,
        endpoint: str,
        n_clients: int,
        payload: bytes,
        reply_bytes: int,
        timeout_s: float,
        keys: ClientKeys | None = None,
    ):
        self._payload, self._reply_bytes = payload, reply_bytes
        self._sockets = [dealer(endpoint, new_identity(), keys) for _ in range(n_clients)]
        self._clients = {socket.fileno(): client for client, socket in enumerate(self._sockets)}
        self._fds = list(self._clients)
        self._look: set[int] = set()  # clients whose descriptor may have fired unseen
        self._wait_connected(time.monotonic() + timeout_s, f"{endpoint}; {unconnected_hint(keys)}")

    def send(self, client: int, sequence: int, now_ns: int, budget_us: int) -> bool:
        """See `Channel`."""
        frame = wire.encode(Header(Kind.ACT, 0, sequence, now_ns, budget_us), self._payload)
        self._look.add(client)
        try:
            self._sockets[client].send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, wait_s: float) -> list[Reply]:
        """See `Channel`."""
        replies = self._drain(self._look)
        self._look.clear()
        if not replies:
            ready, _, _ = select.select(self._fds, [], [], max(wait_s, 0.0))
            replies = self._drain({self._clients[fd] for fd in ready})
        return replies

    def close(self) -> None:
        """See `Channel`."""
        for socket in self._sockets:
            socket.close(linger=0)

    def _drain(self, clients: set[int]) -> list[Reply]:
        """Returns everything that waits at the sockets of these clients."""
        replies = []
        for client in clients:
            socket = self._sockets[client]
            while int(socket.getsockopt(zmq.EVENTS)) & _POLLIN:
                frame = bytes(socket.recv(_NOBLOCK))
                replies.append(self._reply(client, frame, time.monotonic_ns()))
        return replies

    def _reply(self, client: int, frame: bytes, received_ns: int) -> Reply:
        """Returns what a frame says; one that breaks the protocol is a BAD_REPLY."""
        try:
            header, payload = wire.decode(frame)
        except WireError as error:
            return Reply(client, error.sequence, BAD_REPLY, received_ns, (0, 0, 0))
        good = header.kind == Kind.ERROR or (
            header.kind == Kind.ACT_REPLY and len(payload) == self._reply_bytes
        )
        times_us = (header.queue_us, header.inference_us, header.server_us)
        return Reply(
            client, header.sequence, header.status if good else BAD_REPLY, received_ns, times_us
        )

    def _wait_connected(self, until_s: float, where: str) -> None:
        """Waits until every socket has its connection. Raises PolicyTimeout, which says `where`."""
        for client, socket in enumerate(self._sockets):
            if not socket.poll(max(round((until_s - time.monotonic()) * 1000), 0), zmq.POLLOUT):
                self.close()
                raise PolicyTimeout(
                    f"client {client} of {len(self._sockets)} got no connection to {where}"
                )
            self._look.add(client)


class LocalChannel:
    """A policy in this process, which answers its clients one after the other, in the order of their requests.

    Args:
        policy: A `LocalPolicy`.
        obs: (obs_dim,) of every request.
    """

    def __init__(self, policy, obs: np.ndarray):
        self._policy, self._obs = policy, obs
        self._waiting: deque[tuple[int, int, int]] = deque()

    def send(self, client: int, sequence: int, now_ns: int, budget_us: int) -> bool:
        """See `Channel`; the budget is ignored, since a computation here cannot be given up."""
        self._waiting.append((client, sequence, now_ns))
        return True

    def receive(self, wait_s: float) -> list[Reply]:
        """See `Channel`: computes the oldest request."""
        if not self._waiting:
            time.sleep(max(wait_s, 0.0))
            return []
        client, sequence, sent_ns = self._waiting.popleft()
        start_ns, status = time.monotonic_ns(), 0
        try:
            self._policy.act(self._obs)
        except PolicyError as error:
            status = int(error.status)
        end_ns = time.monotonic_ns()
        times_us = (
            (start_ns - sent_ns) // 1000,
            (end_ns - start_ns) // 1000,
            (end_ns - sent_ns) // 1000,
        )
        return [Reply(client, sequence, status, end_ns, times_us)]

    def close(self) -> None:
        """See `Channel`."""
        self._policy.close()
