"""A client of the policy server, for the robot's computer: numpy and ZeroMQ, no runtime, no simulator."""

import time
from typing import Any

import numpy as np

from policy_server.contract import wire
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.manifest import Manifest
from policy_server.contract.wire import Header, Kind, Status, WireError
from policy_server.transport.keys import ClientKeys
from policy_server.transport.link import connect, unconnected_hint

__all__ = ["PolicyClient", "PolicyError", "PolicyTimeout"]

_NO_REPLY_HINT = "is the server running there (edp serve), and is the deadline long enough for it?"
_NOT_WAITED = Status.SUPERSEDED  # of a request whose newer one is under way


class PolicyClient:
    """A policy that runs in a server. Not for use from several threads.

    It reconnects by itself and keeps its session on the server while doing so; a restarted server starts a
    new session. Replies that come after their deadline are dropped by sequence number.

    `act` asks and waits. `send` and `receive` do it apart: send at this tick, use the answer at the next.

    Attributes:
        endpoint: Of the server.
        last_times: Of the last action: queue_us, inference_us, server_us, valid_us (server), roundtrip_us (here) [us].
        last_policy: Of the last action: the first 8 bytes of its bundle's hash; another one after a reload.

    Args:
        endpoint: Like tcp://127.0.0.1:5599 or ipc:///run/policy.
        timeout_s: How long every call but `act` with a deadline waits [s].
        keys: For a server with keys.

    Raises:
        ValueError: The endpoint cannot be understood.
    """

    def __init__(self, endpoint: str, timeout_s: float = 1.0, keys: ClientKeys | None = None):
        self.endpoint = endpoint
        self.last_policy = wire.NO_POLICY
        self._last: tuple[Header, int] | None = None
        self._timeout_s = timeout_s
        self._sequence = 0
        self._oldest = 1  # replies below this sequence are of requests that were given up
        self._manifest: Manifest | None = None
        self._shape: tuple[int, int] = (0, 0)
        self._link = connect(endpoint, keys)
        self._unconnected_hint = unconnected_hint(keys)

    @property
    def manifest(self) -> Manifest:
        """The served policy's manifest, asked for once."""
        if self._manifest is None:
            self.hello()
        assert self._manifest is not None
        return self._manifest

    @property
    def last_times(self) -> dict[str, float]:
        """See the class; empty before the first action."""
        if self._last is None:
            return {}
        header, received_ns = self._last
        times = {
            name: getattr(header, name)
            for name in ("queue_us", "inference_us", "server_us", "valid_us")
        }
        return {**times, "roundtrip_us": (received_ns - header.client_time_ns) / 1000}

    def hello(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Returns wire_version, bundle_hash, manifest, provider, self_test_error, seed and session (an ordinal).

        Args:
            timeout_s: How long to wait [s]; None for the client's timeout_s.

        Raises:
            PolicyTimeout: No answer.
            BundleError: The server's manifest is of another schema.
        """
        answer = self._control({"op": "hello"}, timeout_s)
        self._learn(Manifest.from_dict(answer.get("manifest")))
        return answer

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode: restarts the session's noise at `seed`, None goes on with fresh noise.

        Raises:
            PolicyTimeout: No answer.
            PolicyError: The seed is not a whole number in [0, 2^63).
        """
        self._control({"op": "reset", "seed": seed})

    def health(self) -> dict[str, Any]:
        """Returns status, ready, reloading, bundle_hash and uptime_s. Raises PolicyTimeout."""
        return self._control({"op": "health"})

    def stats(self) -> dict[str, Any]:
        """Returns counts by status, the server's times and its sessions. Raises PolicyTimeout."""
        return self._control({"op": "stats"})

    def reload(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Lets the server load its bundle again; returns bundle_hash and previous_bundle_hash.

        Args:
            timeout_s: How long to wait for its self-test to end [s].

        Raises:
            PolicyTimeout: No answer.
            PolicyError: REFUSED: not allowed, or the new bundle failed its checks; the old one serves on.
        """
        return self._control({"op": "reload"}, timeout_s)

    def rollback(self) -> dict[str, Any]:
        """Lets the server go back to the policy before the last reload; returns and raises like `reload`."""
        return self._control({"op": "rollback"})

    def act(self, obs: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        """Returns the action chunk (horizon, act_dim) float32, read-only.

        Args:
            obs: (obs_dim,).
            deadline_s: How long to wait, sending included [s]; None for the client's timeout_s.

        Raises:
            PolicyTimeout: No answer in time.
            PolicyError: The server refused the obs (BAD_LENGTH, NOT_FINITE), dropped it (LATE, OVERLOADED) or failed
                (INTERNAL), or its answer has the wrong size or is not finite.
        """
        wait_s = self._timeout_s if deadline_s is None else deadline_s
        start_ns = time.monotonic_ns()
        deadline_ns = start_ns + int(wait_s * 1e9)
        self._oldest = self._send_obs(obs, wait_s, start_ns, deadline_ns)
        return self._action(*self._receive(Kind.ACT_REPLY, start_ns, deadline_ns))

    def send(self, obs: np.ndarray, deadline_s: float | None = None) -> int:
        """Sends an observation and returns its sequence number; `receive` gives the answer.

        Args:
            obs: (obs_dim,).
            deadline_s: How old the observation may be when its action is computed [s]; None for timeout_s.

        Raises:
            PolicyTimeout: There is no connection to the server, and none came within `deadline_s`.
        """
        wait_s = self._timeout_s if deadline_s is None else deadline_s
        start_ns = time.monotonic_ns()
        return self._send_obs(obs, wait_s, start_ns, start_ns + int(wait_s * 1e9))

    def receive(self, wait_s: float = 0.0) -> np.ndarray | None:
        """Returns the newest action that has come since the last call, or None after `wait_s` without one.

        An older request's action is dropped where a newer one's is here; an action older than one that was returned
        never comes.

        Args:
            wait_s: How long to wait for one [s]; 0 looks what is here.

        Raises:
            PolicyError: As of `act`; of the newest answer.
        """
        start_ns = time.monotonic_ns()
        deadline_ns = start_ns + int(wait_s * 1e9)
        newest: tuple[Header, memoryview] | None = None
        while True:
            found = self._next(Kind.ACT_REPLY, 0 if newest is not None else deadline_ns)
            if found is None:
                break
            if found[0].status != _NOT_WAITED:
                newest, self._oldest = found, max(self._oldest, found[0].sequence + 1)
        return None if newest is None else self._action(*self._checked(newest))

    def close(self) -> None:
        """Closes the connection; what was not sent yet is dropped."""
        self._link.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _learn(self, manifest: Manifest) -> None:
        self._manifest, self._shape = manifest, (manifest.horizon, manifest.act_dim)

    def _send_obs(self, obs: np.ndarray, wait_s: float, start_ns: int, deadline_ns: int) -> int:
        if self._manifest is None:
            self.hello(wait_s)
        # a budget of 0 would mean "for ever"
        self._send(
            Kind.ACT,
            wire.float_bytes(obs),
            start_ns,
            deadline_ns,
            budget_us=max(int(wait_s * 1e6), 1),
        )
        return self._sequence

    def _action(self, header: Header, payload: memoryview) -> np.ndarray:
        """Returns the chunk of a reply."""
        try:
            action = wire.floats(payload, self._shape)
        except WireError as error:
            raise PolicyError(error.status, f"the server's action is unusable: {error}") from error
        self._last, self.last_policy = (header, time.monotonic_ns()), header.policy
        return action

    def _control(self, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Returns the server's answer to a control request."""
        start_ns = time.monotonic_ns()
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        deadline_ns = start_ns + int(wait_s * 1e9)
        send_ns = start_ns + int(
            min(wait_s, self._timeout_s) * 1e9
        )  # a slow answer needs no slow connection
        self._oldest = self._send(Kind.CONTROL, wire.json_bytes(request), start_ns, send_ns)
        _, payload = self._receive(Kind.CONTROL_REPLY, start_ns, deadline_ns)
        try:
            return wire.parse_object(payload)
        except WireError as error:
            raise PolicyError(error.status, f"the server's answer is unusable: {error}") from error

    def _send(
        self, kind: Kind, payload: bytes, start_ns: int, deadline_ns: int, budget_us: int = 0
    ) -> int:
        """Sends a request and returns its sequence number. Raises PolicyTimeout without a connection."""
        self._sequence += 1
        if not self._link.send(
            wire.encode(Header(kind, 0, self._sequence, start_ns, budget_us), payload), deadline_ns
        ):
            raise self._timeout(start_ns, "not connected to", self._unconnected_hint)
        return self._sequence

    def _receive(self, kind: Kind, start_ns: int, deadline_ns: int) -> tuple[Header, memoryview]:
        """Returns header and payload of the reply. Raises PolicyTimeout, or PolicyError for an error reply."""
        found = self._next(kind, deadline_ns)
        if found is None:
            raise self._timeout(start_ns, "no reply from", _NO_REPLY_HINT)
        return self._checked(found)

    def _next(self, kind: Kind, deadline_ns: int) -> tuple[Header, memoryview] | None:
        """Returns the next reply of that kind, or error, that is not of a request that was given up."""
        while True:
            data = self._link.receive(deadline_ns)
            if data is None:
                return None
            try:
                header, payload = wire.decode(data)
            except WireError as error:
                raise PolicyError(
                    error.status, f"{self.endpoint} sent what is not this protocol: {error}"
                ) from error
            if header.kind not in (kind, Kind.ERROR):
                continue
            if self._oldest <= header.sequence <= self._sequence or (
                header.kind == Kind.ERROR and not header.sequence
            ):
                return header, payload

    @staticmethod
    def _checked(reply: tuple[Header, memoryview]) -> tuple[Header, memoryview]:
        """Returns the reply. Raises PolicyError where it is an error."""
        header, payload = reply
        if header.kind == Kind.ERROR:
            raise PolicyError(_status(header.status), bytes(payload).decode(errors="replace"))
        return reply

    def _timeout(self, start_ns: int, what: str, hint: str) -> PolicyTimeout:
        elapsed_ms = (time.monotonic_ns() - start_ns) / 1e6
        return PolicyTimeout(f"{what} {self.endpoint} after {elapsed_ms:.1f} ms; {hint}")


def _status(code: int) -> Status:
    return Status(code) if code in Status._value2member_map_ else Status.INTERNAL
