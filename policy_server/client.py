"""A client of the policy server, for the robot's computer: numpy and ZeroMQ, no runtime, no simulator."""

import time
import uuid
from typing import Any

import numpy as np
import zmq

from policy_server import wire
from policy_server.bundle import Manifest
from policy_server.errors import PolicyError, PolicyTimeout
from policy_server.wire import Header, Kind, Status, WireError

__all__ = ["PolicyClient", "PolicyError", "PolicyTimeout"]


class PolicyClient:
    """A policy that runs in a server. Not for use from several threads.

    It reconnects by itself and keeps its session on the server while doing so; a restarted server starts a
    new session. Replies that come after their deadline are dropped by sequence number.

    Attributes:
        endpoint: Of the server.
        last_times: Of the last act: queue_us, inference_us, server_us, valid_us (server), roundtrip_us (here) [us].

    Args:
        endpoint: Like tcp://127.0.0.1:5599 or ipc:///run/policy.
        timeout_s: How long every call but `act` with a deadline waits [s].

    Raises:
        ValueError: ZeroMQ does not understand the endpoint.
    """

    def __init__(self, endpoint: str, timeout_s: float = 1.0):
        self.endpoint = endpoint
        self.last_times: dict[str, float] = {}
        self._timeout_s = timeout_s
        self._sequence = 0
        self._manifest: Manifest | None = None
        self._socket = _connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)

    @property
    def manifest(self) -> Manifest:
        """The served policy's manifest, asked for once."""
        if self._manifest is None:
            self.hello()
        assert self._manifest is not None
        return self._manifest

    def hello(self) -> dict[str, Any]:
        """Returns wire_version, bundle_hash, manifest, provider, self_test_error, seed and session (an ordinal).

        Raises:
            PolicyTimeout: No answer.
            BundleError: The server's manifest is of another schema.
        """
        answer = self._control({"op": "hello"})
        self._manifest = Manifest.from_dict(answer.get("manifest"))
        return answer

    def reset(self, seed: int | None = None) -> None:
        """Restarts the session's noise at `seed`; None goes on with fresh noise.

        Raises:
            PolicyTimeout: No answer.
            PolicyError: The seed is not a whole number in [0, 2^63).
        """
        self._control({"op": "reset", "seed": seed})

    def health(self) -> dict[str, Any]:
        """Returns status and uptime_s. Raises PolicyTimeout."""
        return self._control({"op": "health"})

    def stats(self) -> dict[str, Any]:
        """Returns counts by status, n_sessions and the server's times. Raises PolicyTimeout."""
        return self._control({"op": "stats"})

    def act(self, obs: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """Returns the action chunk (horizon, act_dim) float32, read-only.

        Args:
            obs: (obs_dim,).
            deadline_s: How long to wait, sending included [s]; None for the client's timeout_s.

        Raises:
            PolicyTimeout: No answer in time.
            PolicyError: The server refused the obs (BAD_LENGTH, NOT_FINITE), dropped it (LATE) or failed
                (INTERNAL), or its answer has the wrong size or is not finite.
        """
        manifest = self.manifest
        wait_s = self._timeout_s if deadline_s is None else deadline_s
        start_ns = time.monotonic_ns()
        # a budget of 0 would mean "for ever"
        header, payload = self._request(Kind.ACT, wire.float_bytes(obs), wait_s, budget_us=max(int(wait_s * 1e6), 1))
        try:
            action = wire.floats(payload, (manifest.horizon, manifest.act_dim))
        except WireError as error:
            raise PolicyError(error.status, f"the server's action is unusable: {error}") from error
        self.last_times = {
            "queue_us": header.queue_us,
            "inference_us": header.inference_us,
            "server_us": header.server_us,
            "valid_us": header.valid_us,
            "roundtrip_us": (time.monotonic_ns() - start_ns) / 1000,
        }
        return action

    def close(self) -> None:
        """Closes the connection; what was not sent yet is dropped."""
        self._socket.close(linger=0)

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _control(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns the server's answer to a control request."""
        _, payload = self._request(Kind.CONTROL, wire.json_bytes(request), self._timeout_s)
        try:
            return wire.parse_object(payload)
        except WireError as error:
            raise PolicyError(error.status, f"the server's answer is unusable: {error}") from error

    def _request(self, kind: Kind, payload: bytes, wait_s: float, budget_us: int = 0) -> tuple[Header, memoryview]:
        """Returns header and payload of the reply. Raises PolicyTimeout, or PolicyError for an error reply."""
        start_ns = time.monotonic_ns()
        deadline_ns = start_ns + int(wait_s * 1e9)
        self._sequence += 1
        self._send(wire.encode(Header(kind, 0, self._sequence, start_ns, budget_us), payload), start_ns, deadline_ns)
        while True:
            try:
                header, content = wire.decode(self._receive(start_ns, deadline_ns))
            except WireError as error:
                raise PolicyError(error.status, f"{self.endpoint} sent what is not this protocol: {error}") from error
            if header.kind == Kind.ERROR and header.sequence in (self._sequence, 0):
                raise PolicyError(_status(header.status), bytes(content).decode(errors="replace"))
            if header.sequence == self._sequence and header.kind == kind + 1:
                return header, content

    def _send(self, frame: bytes, start_ns: int, deadline_ns: int) -> None:
        """Sends, waiting for a connection until the deadline (nothing is stored for an absent server)."""
        while True:
            try:
                return self._socket.send(frame, zmq.NOBLOCK)
            except zmq.Again:
                left_ns = deadline_ns - time.monotonic_ns()
                if left_ns <= 0:
                    raise self._timeout(start_ns, "not connected") from None
                self._socket.poll(min(-(-left_ns // 1_000_000), 50), zmq.POLLOUT)

    def _receive(self, start_ns: int, deadline_ns: int) -> bytes:
        """Returns the next frame. Raises PolicyTimeout at the deadline."""
        while True:
            left_ns = deadline_ns - time.monotonic_ns()
            if self._poller.poll(max(left_ns // 1_000_000, 0)):
                return b"".join(self._socket.recv_multipart(zmq.NOBLOCK))
            if left_ns <= 0:
                raise self._timeout(start_ns, "no reply")
            if left_ns < 1_000_000:  # ZeroMQ waits in whole milliseconds
                time.sleep(min(left_ns, 50_000) * 1e-9)

    def _timeout(self, start_ns: int, what: str) -> PolicyTimeout:
        elapsed_ms = (time.monotonic_ns() - start_ns) / 1e6
        return PolicyTimeout(
            f"{what} from {self.endpoint} after {elapsed_ms:.1f} ms; is the server running there (edp serve), "
            "and is the deadline long enough for it?"
        )


def _connect(endpoint: str) -> zmq.Socket:
    """Returns a DEALER that connects to `endpoint` in the background. Raises ValueError for a bad endpoint."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.setsockopt(zmq.ROUTING_ID, b"c" + uuid.uuid4().bytes)  # keeps the session over a reconnect; not guessable
    socket.setsockopt(zmq.IMMEDIATE, 1)  # no queue for a server that is not there
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
    socket.setsockopt(zmq.IPV6, "[" in endpoint)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ValueError(
            f"endpoint {endpoint!r}: {zmq.strerror(error.errno or 0)}; expected tcp://HOST:PORT or ipc://PATH"
        ) from error
    return socket


def _status(code: int) -> Status:
    return Status(code) if code in Status._value2member_map_ else Status.INTERNAL
