"""What a client may ask beside actions: hello, reset, health, stats, reload and rollback (docs/wire.md)."""

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind, Status, WireError
from policy_server.observe.logs import log
from policy_server.serving.reload import Reloader
from policy_server.serving.served_policy import ServedPolicy
from policy_server.serving.sessions import Session
from policy_server.transport.address import ServerError

if TYPE_CHECKING:
    from policy_server.serving.server import PolicyServer

N_SESSIONS = 64  # that `stats` lists


class Operations:
    """The control plane of one server.

    Args:
        server: Whose.
        seed: Of the server.
        load: Loads the bundle again; raises like `ServedPolicy`.
    """

    def __init__(self, server: "PolicyServer", seed: int, load: Callable[[], ServedPolicy]):
        self._server, self._seed = server, seed
        self._reloader = Reloader(load)
        self._previous: ServedPolicy | None = None
        self._reload_asked = threading.Event()
        self._answers: dict[
            Any, Callable[[Session, Header, dict[str, Any]], dict[str, Any] | None]
        ] = {
            "hello": lambda session, *_: self._hello(session),
            "reset": lambda session, _, request: self._reset(session, request),
            "health": lambda *_: self.health(),
            "stats": lambda *_: self.stats(),
            "reload": lambda session, header, _: self._reload(session.identity, header),
            "rollback": lambda *_: self._rollback(),
        }

    def answer(self, session: Session, header: Header, payload: memoryview) -> None:
        """Answers a control request. Raises WireError for one that is unknown or wrong."""
        request = wire.parse_object(payload, header.sequence)
        op = request.get("op")
        work = self._answers.get(op) if isinstance(op, str) else None
        if work is None:
            raise WireError(
                Status.UNSUPPORTED,
                f"op {op!r}: expected {', '.join(self._answers)}",
                header.sequence,
            )
        answer = work(session, header, request)
        if answer is not None:
            self._reply(session.identity, header, wire.json_bytes(answer))

    def ask_reload(self) -> None:
        """Reloads soon; may be called in a signal handler."""
        self._reload_asked.set()

    def poll(self) -> None:
        """Begins a reload that was asked for, and swaps the policy where one has ended."""
        if self._reload_asked.is_set() and not self._reloader.busy:
            self._reload_asked.clear()
            self._server.front.refresh()
            self._reloader.start(
                self._server.policy, lambda policy, error: self._loaded(None, None, policy, error)
            )
        if self._reloader.busy:
            self._reloader.poll()

    def close(self) -> None:
        """Waits for a reload that is under way."""
        self._reloader.close()

    def health(self) -> dict[str, Any]:
        """Returns status ("ok" or "draining"), ready, reloading, bundle_hash and uptime_s."""
        server = self._server
        return {
            "status": "draining" if server.draining else "ok",
            "ready": not server.draining,
            "reloading": self._reloader.busy,
            "bundle_hash": server.policy.bundle.hash,
            "uptime_s": (time.monotonic_ns() - server.started_ns) * 1e-9,
        }

    def stats(self) -> dict[str, Any]:
        """Returns what `Counters` tells, n_sessions, n_queued, and the sessions that were heard of last."""
        server, now_ns = self._server, time.monotonic_ns()
        return {
            **server.counters.to_json(),
            "n_sessions": len(server.sessions),
            "n_queued": len(server.scheduler),
            "bundle_hash": server.policy.bundle.hash,
            "uptime_s": (now_ns - server.started_ns) * 1e-9,
            "sessions": [session.to_json(now_ns) for session in server.sessions.recent(N_SESSIONS)],
        }

    def _reply(self, identity: bytes, header: Header, payload: bytes) -> None:
        policy = self._server.policy.id
        reply = Header(Kind.CONTROL_REPLY, 0, header.sequence, header.client_time_ns, policy=policy)
        self._server.counters.statuses["OK"] += 1
        self._server.send(identity, wire.encode(reply, payload))

    def _hello(self, session: Session) -> dict[str, Any]:
        policy = self._server.policy
        return {
            "wire_version": wire.VERSION,
            "bundle_hash": policy.bundle.hash,
            "manifest": json.loads(policy.manifest_json),
            "provider": policy.provider,
            "self_test_error": policy.self_test_error,
            "seed": self._seed,
            "session": session.ordinal,
        }

    def _reset(self, session: Session, request: dict[str, Any]) -> dict[str, Any]:
        seed = request.get("seed")
        try:
            session.noise.reset(seed)
        except ValueError as error:
            raise WireError(Status.MALFORMED, str(error)) from error
        self._server.superseded(session)  # an observation of the episode before
        return {"seed": seed}

    def _reload(self, identity: bytes, header: Header) -> None:
        """Begins a reload; the answer comes when it has ended."""
        try:
            current = self._server.policy
            self._reloader.start(
                current, lambda policy, error: self._loaded(identity, header, policy, error)
            )
        except ServerError as error:
            raise WireError(Status.REFUSED, str(error), header.sequence) from error

    def _loaded(
        self,
        identity: bytes | None,
        header: Header | None,
        policy: ServedPolicy | None,
        error: str | None,
    ):
        """Swaps a loaded policy in, or keeps the old one; whoever asked is told."""
        self._server.counters.reloads["failed" if policy is None else "ok"] += 1
        if policy is None:
            log("reload_failed", level="error", reason=error)
        else:
            log("reloaded", bundle_hash=policy.bundle.hash, self_test_error=policy.self_test_error)
            self._previous = self._server.policy
            self._server.use(policy)
        if identity is None or header is None:
            return
        if policy is None:
            reason = str(error).replace(
                str(self._server.policy.bundle.path), "..."
            )  # the log names the folder
            self._server.refuse(
                identity, Status.REFUSED, f"the old policy stays: {reason}", header.sequence
            )
        else:
            self._reply(identity, header, wire.json_bytes(self._swapped()))

    def _rollback(self) -> dict[str, Any]:
        """Swaps back to the policy before; a second time, forward again."""
        if self._previous is None:
            raise WireError(Status.REFUSED, "there was no reload: no earlier policy to go back to")
        previous, self._previous = self._previous, self._server.policy
        self._server.use(previous)
        self._server.counters.reloads["rolled_back"] += 1
        log("rolled_back", bundle_hash=previous.bundle.hash)
        return self._swapped()

    def _swapped(self) -> dict[str, Any]:
        assert self._previous is not None
        return {
            "bundle_hash": self._server.policy.bundle.hash,
            "previous_bundle_hash": self._previous.bundle.hash,
        }
