"""What the parts of a server share: its policy, its clients, and what it has done."""

import time
from typing import Any

from policy_server.contract import wire
from policy_server.contract.commit import installed_version
from policy_server.contract.wire import Header, Kind, Status
from policy_server.observe.counters import Counters
from policy_server.observe.metrics import Snapshot
from policy_server.observe.monitor import Health
from policy_server.serving.rate_limit import BadMessageLimit
from policy_server.serving.scheduler import Scheduler
from policy_server.serving.served_policy import ServedPolicy
from policy_server.serving.sessions import Request, Session, Sessions
from policy_server.transport.front import Front

N_SESSIONS = 64  # Sessions in the answer to `stats`.
_GIVEN_UP = {
    Status.LATE: (
        "waited longer than its budget and was not computed; lower the load or allow more time"
    ),
    Status.SUPERSEDED: (
        "a newer observation or a reset of this session came while this one waited; not computed"
    ),
    Status.OVERLOADED: "too many sessions wait; not computed; ask again later, or less often",
}


class ServerState:
    """The state of one server.

    Attributes:
        policy: The policy that answers. A reload replaces it.
        front: Where requests come from and replies go to.
        seed: Seeds the sessions' noise.
        sessions: The clients.
        scheduler: The observations that wait.
        counters: What has happened.
        bad_messages: Which peers are ignored.
        started_ns: When the server started, monotonic [ns].
        ticked_ns: When its loop last turned, monotonic [ns].
        draining: Whether it answers what waits and then ends.

    Args:
        policy: The policy that answers first.
        front: Where requests come from and replies go to.
        seed: Seeds the sessions' noise.

    Raises:
        ValueError: The seed is not a whole number in [0, 2^63).
    """

    def __init__(self, policy: ServedPolicy, front: Front, seed: int):
        self.policy = policy
        self.front = front
        self.seed = seed
        self.sessions = Sessions(seed)
        self.scheduler = Scheduler(policy.batch)
        self.counters = Counters()
        self.bad_messages = BadMessageLimit()
        self.started_ns = time.monotonic_ns()
        self.ticked_ns = self.started_ns
        self.draining = False

    def use(self, policy: ServedPolicy) -> None:
        """Answers with another policy from the next batch on. It begins with empty memories."""
        if policy.id != self.policy.id:
            self.sessions.forget()
        self.policy = policy
        self.scheduler.batch = policy.batch

    def send(self, identity: bytes, frame: bytes) -> None:
        """Sends without waiting. A client that is gone, or does not read, loses its reply."""
        if not self.front.send(identity, frame):
            self.counters.statuses["undeliverable"] += 1

    def refuse(self, identity: bytes, status: Status, message: str, sequence: int) -> None:
        """Sends an error reply.

        Args:
            identity: The client's routing id.
            status: Tells a program what is wrong.
            message: Tells a person.
            sequence: The request's sequence number, 0 if unknown.
        """
        self.counters.statuses[status.name] += 1
        payload = message[:1000].encode(errors="replace")
        self.send(identity, wire.encode(Header(Kind.ERROR, status, sequence), payload))

    def give_up(self, session: Session, request: Request, status: Status) -> None:
        """Tells a client that its observation is not computed.

        Args:
            session: The client's session.
            request: The observation.
            status: LATE, SUPERSEDED or OVERLOADED.
        """
        self.refuse(session.identity, status, _GIVEN_UP[status], request.sequence)

    def supersede(self, session: Session) -> None:
        """Drops the session's waiting observation if there is one, and tells the client."""
        dropped = self.scheduler.drop(session)
        if dropped is not None:
            self.give_up(session, dropped, Status.SUPERSEDED)

    def uptime_s(self) -> float:
        """Returns the time since the start [s]."""
        return (time.monotonic_ns() - self.started_ns) * 1e-9

    def to_json(self) -> dict[str, Any]:
        """Returns the answer to `stats`, with the N_SESSIONS sessions that were heard of last."""
        now_ns = time.monotonic_ns()
        return {
            **self.counters.to_json(),
            "n_sessions": len(self.sessions),
            "n_queued": len(self.scheduler),
            "bundle_hash": self.policy.bundle.hash,
            "uptime_s": self.uptime_s(),
            "sessions": [session.to_json(now_ns) for session in self.sessions.recent(N_SESSIONS)],
        }

    def snapshot(self) -> Snapshot:
        """Returns what a scrape reads. Only the serving thread may call it."""
        counters = self.counters
        return Snapshot(
            policy=self.policy.manifest.shown_name,
            bundle_hash=self.policy.bundle.hash,
            provider=self.policy.provider,
            version=installed_version("edp-robot") or "unknown",
            statuses=dict(counters.statuses),
            latencies={name: histogram.copy() for name, histogram in counters.histograms.items()},
            n_sessions=len(self.sessions),
            n_queued=len(self.scheduler),
            n_blocked=self.bad_messages.n_blocked(time.monotonic_ns()),
            batches=dict(counters.batches),
            reloads=dict(counters.reloads),
            n_missed_budgets=counters.statuses["LATE"],
            uptime_s=self.uptime_s(),
        )

    def health(self) -> Health:
        """Returns whether the server serves. Any thread may call it."""
        return Health("draining" if self.draining else "serving", self.ticked_ns)
