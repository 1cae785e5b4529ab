"""Answers what a client asks besides actions: hello, reset, health, stats, reload and rollback.

docs/wire.md describes the answers.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

from policy_server.contract import wire
from policy_server.contract.errors import ServerError
from policy_server.contract.wire import Header, Kind, Status, WireError
from policy_server.observe.logs import log
from policy_server.serving.reload import Reloader
from policy_server.serving.served_policy import ServedPolicy
from policy_server.serving.sessions import Session
from policy_server.serving.state import ServerState

JsonObject = dict[str, Any]
Answer = Callable[[Session, Header, JsonObject], JsonObject | None]


class ControlRequests:
    """The control plane of one server.

    Args:
        state: The server's state.
        load: Loads the bundle again. It raises what `ServedPolicy` raises.
    """

    def __init__(self, state: ServerState, load: Callable[[], ServedPolicy]):
        self._state = state
        self._reloader = Reloader(load)
        self._previous: ServedPolicy | None = None
        self._reload_asked = threading.Event()
        self._answers: dict[str, Answer] = {
            "hello": lambda session, _, request: self._hello(session, request),
            "reset": lambda session, _, request: self._reset(session, request),
            "health": lambda *_: self.health(),
            "stats": lambda *_: self._state.to_json(),
            "reload": lambda session, header, _: self._reload(session.identity, header),
            "rollback": lambda *_: self._rollback(),
        }

    def answer(self, session: Session, header: Header, payload: memoryview) -> None:
        """Answers a control request.

        Args:
            session: The client's session.
            header: The request's header.
            payload: Its JSON object.

        Raises:
            WireError: The request is unknown or wrong.
        """
        request = wire.parse_object(payload, header.sequence)
        op = request.get("op")
        work = self._answers.get(op) if isinstance(op, str) else None
        if work is None:
            expected = ", ".join(self._answers)
            raise WireError(Status.UNSUPPORTED, f"op {op!r}: expected {expected}", header.sequence)
        answer = work(session, header, request)
        if answer is not None:
            self._reply(session.identity, header, answer)

    def ask_reload(self) -> None:
        """Makes a later `poll` begin a reload. A signal handler may call it."""
        self._reload_asked.set()

    def poll(self) -> None:
        """Begins a reload that was asked for, and swaps the policy when a reload has ended."""
        if self._reload_asked.is_set() and not self._reloader.busy:
            self._reload_asked.clear()
            self._state.front.refresh()
            self._reloader.start(self._state.policy, self._loaded)
        if self._reloader.busy:
            self._reloader.poll()

    def close(self) -> None:
        """Waits for a reload that is under way."""
        self._reloader.close()

    def health(self) -> JsonObject:
        """Returns status ("ok" or "draining"), ready, reloading, bundle_hash and uptime_s."""
        draining = self._state.draining
        return {
            "status": "draining" if draining else "ok",
            "ready": not draining,
            "reloading": self._reloader.busy,
            "bundle_hash": self._state.policy.bundle.hash,
            "uptime_s": self._state.uptime_s(),
        }

    def _reply(self, identity: bytes, header: Header, answer: JsonObject) -> None:
        reply = Header(
            Kind.CONTROL_REPLY,
            sequence=header.sequence,
            client_time_ns=header.client_time_ns,
            policy=self._state.policy.id,
        )
        self._state.counters.statuses["OK"] += 1
        self._state.send(identity, wire.encode(reply, wire.json_bytes(answer)))

    def _hello(self, session: Session, request: JsonObject) -> JsonObject:
        """Describes the current policy, or the one that the client had an answer from before."""
        policy = self._state.policy
        previous = self._previous
        if "policy" not in request:
            session.memory.clear()
        elif previous is not None and previous.id.hex() == request["policy"]:
            policy = previous
        return {
            "wire_version": wire.VERSION,
            "bundle_hash": policy.bundle.hash,
            "manifest": json.loads(policy.manifest_json),
            "provider": policy.provider,
            "self_test_error": policy.self_test_error,
            "seed": self._state.seed,
            "session": session.ordinal,
        }

    def _reset(self, session: Session, request: JsonObject) -> JsonObject:
        seed = request.get("seed")
        try:
            session.noise.reset(seed)
        except ValueError as error:
            raise WireError(Status.MALFORMED, str(error)) from error
        session.memory.clear()
        self._state.supersede(session)  # It is an observation of the episode before.
        return {"seed": seed}

    def _reload(self, identity: bytes, header: Header) -> None:
        """Begins a reload. The client is answered when it has ended."""

        def done(policy: ServedPolicy | None, error: str | None) -> None:
            self._loaded(policy, error)
            if policy is not None:
                return self._reply(identity, header, self._swapped())
            folder = str(self._state.policy.bundle.path)
            reason = str(error).replace(folder, "...")  # The log names the folder.
            message = f"the old policy stays: {reason}"
            self._state.refuse(identity, Status.REFUSED, message, header.sequence)

        try:
            self._reloader.start(self._state.policy, done)
        except ServerError as error:
            raise WireError(Status.REFUSED, str(error), header.sequence) from error

    def _loaded(self, policy: ServedPolicy | None, error: str | None) -> None:
        """Swaps a loaded policy in, or keeps the old one where loading failed."""
        self._state.counters.reloads["failed" if policy is None else "ok"] += 1
        if policy is None:
            return log("reload_failed", level="error", reason=error)
        log("reloaded", bundle_hash=policy.bundle.hash, self_test_error=policy.self_test_error)
        self._previous = self._state.policy
        self._state.use(policy)

    def _rollback(self) -> JsonObject:
        """Swaps the current and the previous policy."""
        previous = self._previous
        if previous is None:
            raise WireError(Status.REFUSED, "there was no reload: no earlier policy to go back to")
        self._previous = self._state.policy
        self._state.use(previous)
        self._state.counters.reloads["rolled_back"] += 1
        log("rolled_back", bundle_hash=previous.bundle.hash)
        return self._swapped()

    def _swapped(self) -> JsonObject:
        assert self._previous is not None
        return {
            "bundle_hash": self._state.policy.bundle.hash,
            "previous_bundle_hash": self._previous.bundle.hash,
        }
