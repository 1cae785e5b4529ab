"""Who talks to the server: one session a client, with noise of its own and room for one waiting observation."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from policy_server.serving.noise import NoiseStream

MAX_SESSIONS = 1024
N_RECENT = 256  # answered requests whose times a session remembers


class Request(NamedTuple):
    """An observation that waits.

    Attributes:
        sequence, client_time_ns, budget_us: Of its header.
        obs: (obs_dim,) float32, finite.
        arrival_ns: When the server took it from its socket, monotonic [ns].
    """

    sequence: int
    client_time_ns: int
    budget_us: int
    obs: np.ndarray
    arrival_ns: int


@dataclass(eq=False)
class Session:
    """One client.

    Attributes:
        identity: ZeroMQ's routing id.
        ordinal: Number on this server, from 0.
        noise: Its stream.
        waiting: Its observation that was not computed yet.
        last_ns: When it last sent something valid, monotonic [ns].
        n_acts, n_late, n_errors: Answers by kind.
        recent: (arrival [ns], server time [us]) of the newest answered requests.
    """

    identity: bytes
    ordinal: int
    noise: NoiseStream
    waiting: Request | None = None
    last_ns: int = 0
    n_acts: int = 0
    n_late: int = 0
    n_errors: int = 0
    recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=N_RECENT))

    def to_json(self, now_ns: int) -> dict[str, Any]:
        """Returns session (its ordinal), n_acts, n_late, n_errors, idle_s, hz, p50_us and p99_us (server time)."""
        arrivals, times = zip(*self.recent, strict=True) if self.recent else ((), ())
        span_s = (arrivals[-1] - arrivals[0]) * 1e-9 if arrivals else 0.0
        ordered = sorted(times)
        return {
            "session": self.ordinal,
            **{name: getattr(self, name) for name in ("n_acts", "n_late", "n_errors")},
            "idle_s": (now_ns - self.last_ns) * 1e-9,
            "hz": (len(arrivals) - 1) / span_s if span_s else 0.0,
            "p50_us": float(_nearest_rank(ordered, 50)),
            "p99_us": float(_nearest_rank(ordered, 99)),
        }


def _nearest_rank(times: Sequence[int], percent: int) -> int:
    """Returns a percentile of a list in rising order, 0 of none; for many sessions NumPy's would hold up the robots."""
    return times[(len(times) * percent + 99) // 100 - 1] if times else 0


class Sessions:
    """The sessions by routing id; the longest silent one without a waiting observation makes room for a new one.

    Args:
        seed: Of the server.
        limit: Most sessions that are kept.
    """

    def __init__(self, seed: int, limit: int = MAX_SESSIONS):
        self._seed, self._limit = seed, limit
        self._by_identity: OrderedDict[bytes, Session] = OrderedDict()
        self._n_ever = 0

    def __len__(self) -> int:
        return len(self._by_identity)

    def get(self, identity: bytes, now_ns: int) -> Session:
        """Returns the client's session, a new one for a new client."""
        session = self._by_identity.get(identity)
        if session is None:
            session = Session(identity, self._n_ever, NoiseStream(self._seed, self._n_ever))
            self._n_ever += 1
            self._make_room()
            self._by_identity[identity] = session
        else:
            self._by_identity.move_to_end(identity)
        session.last_ns = now_ns
        return session

    def find(self, identity: bytes) -> Session | None:
        """Returns the client's session if it has one."""
        return self._by_identity.get(identity)

    def recent(self, n: int) -> list[Session]:
        """Returns the `n` sessions that were heard of last, newest first."""
        return [
            session
            for session, _ in zip(reversed(self._by_identity.values()), range(n), strict=False)
        ]

    def _make_room(self) -> None:
        if len(self._by_identity) >= self._limit:
            silent = next(
                (key for key, session in self._by_identity.items() if session.waiting is None), None
            )
            if silent is not None:
                del self._by_identity[silent]
