"""A client of the policy server for the robot's computer. It needs numpy and ZeroMQ only."""

import threading
import time
from typing import Any

import numpy as np

from policy_server.contract import wire
from policy_server.contract.clock import after
from policy_server.contract.errors import PolicyChanged, PolicyError, PolicyTimeout
from policy_server.contract.manifest import Manifest
from policy_server.contract.policy import obs_array
from policy_server.contract.wire import Header, Kind, Status, WireError
from policy_server.control.known_policies import EpisodeMemory, KnownPolicies
from policy_server.control.sole_use import SharedUse, SoleUse
from policy_server.transport.keys import ClientKeys
from policy_server.transport.link import connect, unconnected_hint

_NO_REPLY_HINT = "is the server running there (edp serve), and is the deadline long enough for it?"
HELLO_NS = 100_000_000  # How long `receive` waits for the interface of another policy [ns].
_SERVER_TIMES = ("queue_us", "inference_us", "server_us", "valid_us")


class PolicyClient:
    """A policy that runs in a server.

    One thread at a time may use it; a second one at the same time gets a SharedUse error. `receive`
    belongs to the thread that called `send`. In a process that is forked off, the client opens its
    own connection, and so a session of its own.

    Where another policy answers (a reload, another server at the endpoint), the client asks for its
    interface again. It goes on where fields, limits, horizon and period are the same, and raises
    PolicyChanged otherwise.

    The client reconnects by itself and keeps its session. A restarted server starts a new session.
    A reply that comes after its deadline is dropped by its sequence number.

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
        self._memory = EpisodeMemory(endpoint)
        self._timeout_s = timeout_s
        self._sequence = 0
        self._oldest = 1  # replies with a smaller sequence number are dropped
        after(0, timeout_s, "timeout_s")
        self._keys = keys
        self._link = connect(endpoint, keys)
        self._use = SoleUse(f"the PolicyClient of {endpoint}", self._connect_again)
        self._sender = 0  # The thread whose answers `receive` returns.
        self._known = KnownPolicies(endpoint)

    @property
    def manifest(self) -> Manifest:
        """The served policy's manifest. The first use asks the server for it."""
        if self._known.manifest is None:
            self.hello()
        assert self._known.manifest is not None
        return self._known.manifest

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
        with self._use:
            return self._hello(timeout_s)

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode, with an empty memory.

        Restarts the session's noise at `seed`; None goes on with fresh noise.

        Raises:
            PolicyTimeout: No answer came.
            PolicyError: The seed is not a whole number in [0, 2^63).
        """
        with self._use:
            header, _ = self._ask({"op": "reset", "seed": seed})
            if self._known.manifest is not None:
                self._recognise(header.policy, after(time.monotonic_ns(), self._timeout_s, ""))
            self._memory.begin(self._sequence)

    def health(self) -> dict[str, Any]:
        """Returns status, ready, reloading, bundle_hash and uptime_s.

        Raises:
            PolicyTimeout: No answer came.
        """
        with self._use:
            return self._control({"op": "health"})

    def stats(self) -> dict[str, Any]:
        """Returns counts by status, the server's times and its sessions.

        Raises:
            PolicyTimeout: No answer came.
        """
        with self._use:
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
        with self._use:
            return self._control({"op": "reload"}, timeout_s)

    def rollback(self) -> dict[str, Any]:
        """Makes the server return to the policy before the last reload.

        It returns and raises the same as `reload`.
        """
        with self._use:
            return self._control({"op": "rollback"})

    def act(self, obs: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """Returns the action chunk (horizon, act_dim) float32, read-only.

        Args:
            obs: (obs_dim,).
            deadline_s: How long to wait, sending included [s]. None: the client's timeout_s. inf:
                without limit.

        Raises:
            PolicyTimeout: No answer came in time.
            PolicyError: The server refused the obs (BAD_LENGTH, NOT_FINITE), dropped it (LATE,
                OVERLOADED) or failed (INTERNAL), or its answer has the wrong size or is not finite.
            PolicyChanged, MemoryLost: See the class.
            ValueError: `deadline_s` is negative or no number.
            SharedUse: Another thread is using the client.
        """
        wait_s = self._timeout_s if deadline_s is None else deadline_s
        start_ns = time.monotonic_ns()
        deadline_ns = after(start_ns, wait_s, "deadline_s")
        with self._use:
            self._oldest = self._send_obs(obs, wait_s, start_ns, deadline_ns)
            reply = self._receive(Kind.ACT_REPLY, start_ns, deadline_ns)
            return self._action(*reply, deadline_ns)

    def send(self, obs: np.ndarray, deadline_s: float | None = None) -> int:
        """Sends an observation and returns its sequence number. `receive` gives the answer.

        Args:
            obs: (obs_dim,).
            deadline_s: How old the observation may be when its action is computed [s]. None: the
                client's timeout_s.

        Raises:
            PolicyTimeout: No connection to the server came within `deadline_s`.
            PolicyError: BAD_LENGTH or MALFORMED obs. Nothing was sent.
        """
        wait_s = self._timeout_s if deadline_s is None else deadline_s
        start_ns = time.monotonic_ns()
        deadline_ns = after(start_ns, wait_s, "deadline_s")
        with self._use:
            self._sender = threading.get_ident()
            return self._send_obs(obs, wait_s, start_ns, deadline_ns)

    def receive(self, wait_s: float = 0.0) -> np.ndarray | None:
        """Returns the newest action that came since the last call, or None where none came.

        Where several are here, only the newest request's action is returned. An action older than
        one that was returned never comes.

        Args:
            wait_s: How long to wait for an action [s]. 0 takes what is here.

        Raises:
            PolicyError: The newest answer is an error, as for `act`.
        """
        deadline_ns = after(time.monotonic_ns(), wait_s, "wait_s")
        with self._use:
            if self._sender not in (0, threading.get_ident()):
                raise SharedUse("the answers belong to the thread that called send")
            newest = self._newest(deadline_ns)
            if newest is None:
                return None
            hello_ns = max(deadline_ns, time.monotonic_ns() + HELLO_NS)
            try:
                return self._action(*self._checked(newest, hello_ns), hello_ns)
            except PolicyTimeout:  # An unknown policy has not told its interface yet.
                return None

    def close(self) -> None:
        """Closes the connection. What is not sent yet is dropped."""
        self._link.close()

    def __getstate__(self) -> dict[str, Any]:
        """Raises TypeError: a connection cannot be copied, nor sent to another process."""
        raise TypeError(
            f"a PolicyClient cannot be copied or sent to another process: send {self.endpoint!r}"
        )

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect_again(self) -> None:
        """Opens a connection, and so a session, of this process, which was forked off."""
        self._link = connect(self.endpoint, self._keys)
        self._sender = 0

    def _hello(self, timeout_s: float | None = None) -> dict[str, Any]:
        """See `hello`."""
        self._known.learn(answer := self._control({"op": "hello"}, timeout_s))
        return answer

    def _meet(self, policy: bytes, deadline_ns: int) -> None:
        """Asks what a policy expects. Raises PolicyTimeout, or PolicyChanged if it does not fit."""
        left_s = max(deadline_ns - time.monotonic_ns(), 0) * 1e-9
        self._known.admit(self._control({"op": "hello", "policy": policy.hex()}, left_s))

    def _recognise(self, policy: bytes, deadline_ns: int) -> None:
        """Makes sure that an answer's policy has the known interface. See `_meet`."""
        if policy not in self._known:
            self._meet(policy, deadline_ns)
        if policy not in self._known:
            raise PolicyChanged(
                Status.REFUSED,
                f"{self.endpoint} answers with the policy {policy.hex()}, and another one says "
                "hello there: several servers share the endpoint. Give each its own",
            )

    def _send_obs(self, obs: np.ndarray, wait_s: float, start_ns: int, deadline_ns: int) -> int:
        """Sends an observation and returns its sequence number."""
        if self._known.manifest is None:
            self._hello(wait_s)
        payload = wire.float_bytes(obs_array(obs, self.manifest.obs_dim))
        return self._send(Kind.ACT, payload, start_ns, deadline_ns, wire.budget_us(wait_s))

    def _remembers(self) -> bool:
        """Returns whether the policy has memory."""
        return self._known.manifest is not None and self._known.manifest.state_dim > 0

    def _newest(self, deadline_ns: int) -> tuple[Header, memoryview] | None:
        """Returns the newest answer that is here, or the first until `deadline_ns`."""
        newest = None
        while found := self._next(Kind.ACT_REPLY, 0 if newest is not None else deadline_ns):
            if found[0].status != Status.SUPERSEDED:  # a newer request's answer is under way
                newest = found
                self._oldest = max(self._oldest, found[0].sequence + 1)
        return newest

    def _action(self, header: Header, payload: memoryview, deadline_ns: int) -> np.ndarray:
        """Returns the chunk of a reply."""
        self._memory.check()
        self._recognise(header.policy, deadline_ns)
        manifest = self.manifest
        try:
            action = wire.floats(payload, (manifest.horizon, manifest.act_dim))
        except WireError as error:
            raise PolicyError(error.status, f"the server's action is unusable: {error}") from error
        self._last = (header, time.monotonic_ns())
        self.last_policy = header.policy
        return action

    def _control(self, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Returns the server's answer to a control request."""
        return self._ask(request, timeout_s)[1]

    def _ask(
        self, request: dict[str, Any], timeout_s: float | None = None
    ) -> tuple[Header, dict[str, Any]]:
        """Returns header and content of the server's answer to a control request."""
        start_ns = time.monotonic_ns()
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        deadline_ns = after(start_ns, wait_s, "timeout_s")
        # Waiting long for a slow answer is no reason to wait long for a connection.
        send_ns = min(deadline_ns, after(start_ns, self._timeout_s, "timeout_s"))
        self._oldest = self._send(Kind.CONTROL, wire.json_bytes(request), start_ns, send_ns)
        header, payload = self._receive(Kind.CONTROL_REPLY, start_ns, deadline_ns)
        try:
            return header, wire.parse_object(payload)
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
            raise self._timeout(
                start_ns, "not connected to", trouble + unconnected_hint(self._keys)
            )
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
        return self._checked(found, deadline_ns)

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
            if header.kind == Kind.ACT_REPLY and self._remembers():
                self._memory.note(header)
            if header.kind not in (kind, Kind.ERROR):
                continue
            if self._oldest <= header.sequence <= self._sequence:
                return header, payload
            if header.kind == Kind.ERROR and not header.sequence:
                return header, payload

    def _checked(
        self, reply: tuple[Header, memoryview], deadline_ns: int
    ) -> tuple[Header, memoryview]:
        """Returns the reply. Raises PolicyError if it is an error."""
        header, payload = reply
        if header.kind == Kind.ERROR:
            if header.status == Status.BAD_LENGTH:
                self._meet(wire.NO_POLICY, deadline_ns)  # Perhaps another policy has come.
            raise PolicyError(_status(header.status), bytes(payload).decode(errors="replace"))
        return reply

    def _timeout(self, start_ns: int, what: str, hint: str) -> PolicyTimeout:
        elapsed_ms = (time.monotonic_ns() - start_ns) / 1e6
        return PolicyTimeout(f"{what} {self.endpoint} after {elapsed_ms:.1f} ms; {hint}")


def _status(code: int) -> Status:
    return Status(code) if code in Status._value2member_map_ else Status.INTERNAL
