"""The ways from a load generator to a policy: sockets to a server, or a policy in this process."""

import select
import time
from collections import deque
from typing import NamedTuple, Protocol

import numpy as np
import zmq

from policy_server.contract import wire
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.policy import Policy
from policy_server.contract.wire import Header, Kind, WireError
from policy_server.transport.curve_client import connect_dealer, new_dealer
from policy_server.transport.keys import ClientKeys
from policy_server.transport.link import in_figures, new_identity, unconnected_hint

# Plain integers: the operators of pyzmq's enums cost microseconds.
_POLLIN = int(zmq.POLLIN)
_NOBLOCK = int(zmq.NOBLOCK)
BAD_REPLY = -3  # status of an answer that is not an action of the policy's size


class Reply(NamedTuple):
    """An answer.

    Attributes:
        client: Number of the client that received it.
        sequence: Number of the request that it answers; 0 where that cannot be read.
        status: Status on the wire, or BAD_REPLY.
        received_ns: When it was read [ns].
        times_us: queue_us, inference_us and server_us, as the other side measured them [us].
    """

    client: int
    sequence: int
    status: int
    received_ns: int
    times_us: tuple[int, int, int]


class Channel(Protocol):
    """The way to a policy. Clients are numbered from 0."""

    def send(self, client: int, request: Header) -> bool:
        """Sends one request without waiting. Returns False where it cannot be sent now."""
        ...

    def receive(self, wait_s: float) -> list[Reply]:
        """Returns the replies that are here. Waits at most `wait_s` [s] for the first."""
        ...

    def close(self) -> None:
        """Closes the way."""
        ...


class SocketChannel:
    """One DEALER, and so one session, for each client. One thread serves them all.

    ZeroMQ reports events through a file descriptor that fires once, so the socket's events are read
    after every send and receive. `select` waits only while nothing is there: its timeout is in
    microseconds, ZeroMQ's own is in milliseconds.

    Args:
        endpoint: The server's address.
        n_clients: Number of sockets to open.
        payload: Payload of every request.
        reply_bytes: Size of an action chunk [bytes].
        timeout_s: How long to wait for all connections [s].
        keys: Keys of all clients, for a server with keys.

    Raises:
        ValueError: ZeroMQ does not understand the endpoint.
        OSError: The host's name cannot be looked up.
        PolicyTimeout: Not every client is connected in time.
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
        self._payload = payload
        self._reply_bytes = reply_bytes
        until_s = time.monotonic() + timeout_s
        where = f"{endpoint}; {unconnected_hint(keys)}"
        found = in_figures(endpoint, timeout_s)
        self._sockets = [new_dealer(new_identity(), keys) for _ in range(n_clients)]
        for socket in self._sockets:
            connect_dealer(socket, found)
        self._clients = {socket.fileno(): client for client, socket in enumerate(self._sockets)}
        self._fds = list(self._clients)
        self._unread: set[int] = set()  # clients whose descriptor may have fired already
        self._wait_connected(until_s, where)

    def send(self, client: int, request: Header) -> bool:
        """See `Channel`."""
        frame = wire.encode(request, self._payload)
        self._unread.add(client)
        try:
            self._sockets[client].send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, wait_s: float) -> list[Reply]:
        """See `Channel`."""
        replies = self._drain(self._unread)
        self._unread.clear()
        if not replies:
            ready, _, _ = select.select(self._fds, [], [], max(wait_s, 0.0))
            replies = self._drain({self._clients[fd] for fd in ready})
        return replies

    def close(self) -> None:
        """See `Channel`."""
        for socket in self._sockets:
            socket.close(linger=0)

    def _drain(self, clients: set[int]) -> list[Reply]:
        """Returns all replies that wait at the sockets of these clients."""
        replies = []
        for client in clients:
            socket = self._sockets[client]
            while int(socket.getsockopt(zmq.EVENTS)) & _POLLIN:
                frame = bytes(socket.recv(_NOBLOCK))
                replies.append(self._reply(client, frame, time.monotonic_ns()))
        return replies

    def _reply(self, client: int, frame: bytes, received_ns: int) -> Reply:
        """Returns the reply of a frame. A frame that breaks the protocol is a BAD_REPLY."""
        try:
            header, payload = wire.decode(frame)
        except WireError as error:
            return Reply(client, error.sequence, BAD_REPLY, received_ns, (0, 0, 0))
        is_action = header.kind == Kind.ACT_REPLY and len(payload) == self._reply_bytes
        status = header.status if is_action or header.kind == Kind.ERROR else BAD_REPLY
        times_us = (header.queue_us, header.inference_us, header.server_us)
        return Reply(client, header.sequence, status, received_ns, times_us)

    def _wait_connected(self, until_s: float, where: str) -> None:
        """Waits for every connection. Raises PolicyTimeout, which names `where`, at `until_s`."""
        n = len(self._sockets)
        for client, socket in enumerate(self._sockets):
            left_ms = round((until_s - time.monotonic()) * 1000)
            if not socket.poll(max(left_ms, 0), zmq.POLLOUT):
                self.close()
                raise PolicyTimeout(f"client {client} of {n} got no connection to {where}")
            self._unread.add(client)


class LocalChannel:
    """A policy in this process. It answers requests one after the other, in their order.

    Args:
        policy: The policy.
        obs: (obs_dim,) observation of every request.
    """

    def __init__(self, policy: Policy, obs: np.ndarray):
        self._policy = policy
        self._obs = obs
        self._waiting: deque[tuple[int, Header]] = deque()

    def send(self, client: int, request: Header) -> bool:
        """See `Channel`. The budget is ignored: a computation here cannot be stopped."""
        self._waiting.append((client, request))
        return True

    def receive(self, wait_s: float) -> list[Reply]:
        """See `Channel`. Computes the oldest request."""
        if not self._waiting:
            time.sleep(max(wait_s, 0.0))
            return []
        client, request = self._waiting.popleft()
        sent_ns = request.client_time_ns
        start_ns = time.monotonic_ns()
        status = 0
        try:
            self._policy.act(self._obs)
        except PolicyError as error:
            status = int(error.status)
        end_ns = time.monotonic_ns()
        queue_us = (start_ns - sent_ns) // 1000
        inference_us = (end_ns - start_ns) // 1000
        server_us = (end_ns - sent_ns) // 1000
        times_us = (queue_us, inference_us, server_us)
        return [Reply(client, request.sequence, status, end_ns, times_us)]

    def close(self) -> None:
        """See `Channel`."""
        self._policy.close()
