"""A client of the policy server for the robot's computer. It needs numpy and ZeroMQ only."""

import time
from typing import Any

import numpy as np

from policy_server.contract import wire
from policy_server.contract.errors import MemoryLost, PolicyError, PolicyTimeout
from policy_server.contract.manifest import Manifest
from policy_server.contract.wire import Header, Kind, Status, WireError
from policy_server.transport.keys import ClientKeys
from policy_server.transport.link import connect, unconnected_hint

_NO_REPLY_HINT = "is the server running there (edp serve), and is the deadline long enough for it?"
_SERVER_TIMES = ("queue_us", "inference_us", "server_us", "valid_us")


class PolicyClient:
    """A policy that runs in a server. One thread at a time may use it.

    The client reconnects by itself and keeps its session on the server. A restarted server starts a
    new session. A reply that comes after its deadline is dropped by its sequence number.

    A policy with memory remembers the episode in the session. If it forgot (the server started
    again, or loaded another policy), every action raises MemoryLost until `reset`.

    `act` asks and waits. `send` and `receive` separate the two: send at this tick, use the answer
    at the next.

    Attributes:
        endpoint: The server's address.
        last_policy: The first 8 bytes of the hash of the bundle that gave the last action. It
            changes with a reload.

    Args:
        endpoint: The server's address, like tcp://127.0.0.1:5599 or ipc:///run/policy.
        timeout_s: How long a call waits that is not given a deadline [s].
        keys: The client's keys, for a server with keys.

    Raises:
        ValueError: The endpoint cannot be understood.
    """

    def __init__(self, endpoint: str, timeout_s: float = 1.0, keys: ClientKeys | None = None):
        self.endpoint = endpoint
        self.last_policy = wire.NO_POLICY
        self._last: tuple[Header, int] | None = None
        self._remembers = False  # whether the policy has memory
        self._n_seen: int | None = None  # observations in the policy's memory; None: a new episode
        self._episode_from = 0  # answers to later requests belong to the episode
        self._forgot = ""  # how the policy lost its memory
        self._timeout_s = timeout_s
        self._sequence = 0
        self._oldest = 1  # replies with a smaller sequence number are dropped
        self._manifest: Manifest | None = None
        self._shape: tuple[int, int] = (0, 0)
        self._link = connect(endpoint, keys)
        self._unconnected_hint = unconnected_hint(keys)

    @property
    def manifest(self) -> Manifest:
        """The served policy's manifest. The first use asks the server for it."""
        if self._manifest is None:
            self.hello()
        assert self._manifest is not None
        return self._manifest

    @property
    def last_times(self) -> dict[str, float]:
        """Times of the last action [us]; empty before the first.

        queue_us, inference_us, server_us and valid_us come from the server, roundtrip_us is
        measured here.
        """
        if self._last is None:
            return {}
        header, received_ns = self._last
        times = {name: getattr(header, name) for name in _SERVER_TIMES}
        return {**times, "roundtrip_us": (received_ns - header.client_time_ns) / 1000}

    def hello(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Returns what the server says about itself and its policy.

        It empties the policy's memory: in mid-episode, `reset` must follow.

        The keys are wire_version, bundle_hash, manifest, provider, self_test_error, seed and
        session (a number).

        Args:
            timeout_s: How long to wait [s]. None: the client's timeout_s.

        Raises:
            PolicyTimeout: No answer came.
            BundleError: The server's manifest has another schema.
        """
        answer = self._control({"op": "hello"}, timeout_s)
        self._learn(Manifest.from_dict(answer.get("manifest")))
        return answer

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode, with an empty memory.

        Restarts the session's noise at `seed`; None goes on with fresh noise.

        Raises:
            PolicyTimeout: No answer came.
            PolicyError: The seed is not a whole number in [0, 2^63).
        """
        self._control({"op": "reset", "seed": seed})
        self._begin_episode()

    def health(self) -> dict[str, Any]:
        """Returns status, ready, reloading, bundle_hash and uptime_s.

        Raises:
            PolicyTimeout: No answer came.
        """
        return self._control({"op": "health"})

    def stats(self) -> dict[str, Any]:
        """Returns counts by status, the server's times and its sessions.

        Raises:
            PolicyTimeout: No answer came.
        """
        return self._control({"op": "stats"})

    def reload(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Makes the server load its bundle again. Returns bundle_hash and previous_bundle_hash.

        Args:
            timeout_s: How long to wait for the bundle's self-test to end [s].

        Raises:
            PolicyTimeout: No answer came.
            PolicyError: REFUSED. The server does not allow it, or the new bundle failed its checks
                and the old one still serves.
        """
        return self._control({"op": "reload"}, timeout_s)

    def rollback(self) -> dict[str, Any]:
        """Makes the server return to the policy before the last reload.

        It returns and raises the same as `reload`.
        """
        return self._control({"op": "rollback"})

    def act(self, obs: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """Returns the action chunk (horizon, act_dim) float32, read-only.

        Args:
            obs: (obs_dim,).
            deadline_s: How long to wait, sending included [s]. None: the client's timeout_s.

        Raises:
            PolicyTimeout: No answer came in time.
            PolicyError: The server refused the obs (BAD_LENGTH, NOT_FINITE), dropped it (LATE,
                OVERLOADED) or failed (INTERNAL), or its answer has the wrong size or is not finite.
            MemoryLost: The policy forgot the episode; see the class.
        """
        wait_s = self._timeout_s if deadline_s is None else deadline_s
        start_ns = time.monotonic_ns()
        deadline_ns = start_ns + int(wait_s * 1e9)
        self._oldest = self._send_obs(obs, wait_s, start_ns, deadline_ns)
        return self._action(*self._receive(Kind.ACT_REPLY, start_ns, deadline_ns))

    def send(self, obs: np.ndarray, deadline_s: float | None = None) -> int:
        """Sends an observation and returns its sequence number. `receive` gives the answer.

        Args:
            obs: (obs_dim,).
            deadline_s: How old the observation may be when its action is computed [s]. None: the
                client's timeout_s.

        Raises:
            PolicyTimeout: No connection to the server came within `deadline_s`.
        """
        wait_s = self._timeout_s if deadline_s is None else deadline_s
        start_ns = time.monotonic_ns()
        return self._send_obs(obs, wait_s, start_ns, start_ns + int(wait_s * 1e9))

    def receive(self, wait_s: float = 0.0) -> np.ndarray | None:
        """Returns the newest action that came since the last call, or None where none came.

        Where several are here, only the newest request's action is returned. An action older than
        one that was returned never comes.

        Args:
            wait_s: How long to wait for an action [s]. 0 takes what is here.

        Raises:
            PolicyError: The newest answer is an error, as for `act`.
        """
        start_ns = time.monotonic_ns()
        deadline_ns = start_ns + int(wait_s * 1e9)
        newest: tuple[Header, memoryview] | None = None
        while True:
            found = self._next(Kind.ACT_REPLY, 0 if newest is not None else deadline_ns)
            if found is None:
                break
            if found[0].status != Status.SUPERSEDED:  # a newer request's answer is under way
                newest = found
                self._oldest = max(self._oldest, found[0].sequence + 1)
        return None if newest is None else self._action(*self._checked(newest))

    def close(self) -> None:
        """Closes the connection. What is not sent yet is dropped."""
        self._link.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _learn(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._shape = (manifest.horizon, manifest.act_dim)
        self._remembers = manifest.state_dim > 0

    def _send_obs(self, obs: np.ndarray, wait_s: float, start_ns: int, deadline_ns: int) -> int:
        """Sends an observation and returns its sequence number."""
        if self._manifest is None:
            self.hello(wait_s)
        budget_us = max(int(wait_s * 1e6), 1)  # 0 would mean without limit
        return self._send(Kind.ACT, wire.float_bytes(obs), start_ns, deadline_ns, budget_us)

    def _action(self, header: Header, payload: memoryview) -> np.ndarray:
        """Returns the chunk of a reply."""
        try:
            action = wire.floats(payload, self._shape)
        except WireError as error:
            raise PolicyError(error.status, f"the server's action is unusable: {error}") from error
        if self._forgot:
            raise MemoryLost(Status.INTERNAL, self._forgot)
        self._last = (header, time.monotonic_ns())
        self.last_policy = header.policy
        return action

    def _begin_episode(self) -> None:
        """Expects an empty memory from the next observation on."""
        self._episode_from = self._sequence
        self._n_seen = None
        self._forgot = ""

    def _watch_memory(self, header: Header) -> None:
        """Notes a loss of memory. Every answer of the episode counts, also one that is dropped."""
        if header.sequence <= self._episode_from:
            return
        before = self._n_seen
        now = header.n_seen
        if before is not None and now <= before:
            self._forgot = (
                f"the policy at {self.endpoint} forgot the episode: its memory held {before} "
                f"observations, and then {now}; the server was started again, loaded another "
                "policy, dropped the session or was told hello. Begin another episode with reset"
            )
        self._n_seen = now

    def _control(self, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Returns the server's answer to a control request."""
        start_ns = time.monotonic_ns()
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        deadline_ns = start_ns + int(wait_s * 1e9)
        # Waiting long for a slow answer is no reason to wait long for a connection.
        send_ns = start_ns + int(min(wait_s, self._timeout_s) * 1e9)
        self._oldest = self._send(Kind.CONTROL, wire.json_bytes(request), start_ns, send_ns)
        _, payload = self._receive(Kind.CONTROL_REPLY, start_ns, deadline_ns)
        try:
            return wire.parse_object(payload)
        except WireError as error:
            raise PolicyError(error.status, f"the server's answer is unusable: {error}") from error

    def _send(
        self, kind: Kind, payload: bytes, start_ns: int, deadline_ns: int, budget_us: int = 0
    ) -> int:
        """Sends a request and returns its sequence number.

        Raises:
            PolicyTimeout: There is no connection until `deadline_ns`.
        """
        self._sequence += 1
        frame = wire.encode(Header(kind, 0, self._sequence, start_ns, budget_us), payload)
        if not self._link.send(frame, deadline_ns):
            trouble = f"{self._link.trouble}; " if self._link.trouble else ""
            raise self._timeout(start_ns, "not connected to", trouble + self._unconnected_hint)
        return self._sequence

    def _receive(self, kind: Kind, start_ns: int, deadline_ns: int) -> tuple[Header, memoryview]:
        """Returns header and payload of the reply.

        Raises:
            PolicyTimeout: No reply came until `deadline_ns`.
            PolicyError: The reply is an error.
        """
        found = self._next(kind, deadline_ns)
        if found is None:
            raise self._timeout(start_ns, "no reply from", _NO_REPLY_HINT)
        return self._checked(found)

    def _next(self, kind: Kind, deadline_ns: int) -> tuple[Header, memoryview] | None:
        """Returns the next reply of that kind, or error, to a request that still waits."""
        while True:
            data = self._link.receive(deadline_ns)
            if data is None:
                return None
            try:
                header, payload = wire.decode(data)
            except WireError as error:
                message = f"{self.endpoint} does not speak this protocol: {error}"
                raise PolicyError(error.status, message) from error
            if self._remembers and header.kind == Kind.ACT_REPLY:
                self._watch_memory(header)
            if header.kind not in (kind, Kind.ERROR):
                continue
            if self._oldest <= header.sequence <= self._sequence:
                return header, payload
            if header.kind == Kind.ERROR and not header.sequence:
                return header, payload

    @staticmethod
    def _checked(reply: tuple[Header, memoryview]) -> tuple[Header, memoryview]:
        """Returns the reply. Raises PolicyError if it is an error."""
        header, payload = reply
        if header.kind == Kind.ERROR:
            raise PolicyError(_status(header.status), bytes(payload).decode(errors="replace"))
        return reply

    def _timeout(self, start_ns: int, what: str, hint: str) -> PolicyTimeout:
        elapsed_ms = (time.monotonic_ns() - start_ns) / 1e6
        return PolicyTimeout(f"{what} {self.endpoint} after {elapsed_ms:.1f} ms; {hint}")


def _status(code: int) -> Status:
    return Status(code) if code in Status._value2member_map_ else Status.INTERNAL
