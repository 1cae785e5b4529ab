"""The clients of a server. A session has its own noise, memory and room for one observation."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from policy_server.contract.noise import NoiseStream
from policy_server.observe.histogram import nearest_rank

MAX_SESSIONS = 1024
N_RECENT = 256  # Answered requests whose times a session remembers.


class Request(NamedTuple):
    """An observation that waits.

    Attributes:
        sequence: The message's sequence number.
        client_time_ns: The client's clock, which the reply repeats [ns].
        budget_us: How long an answer is wanted after the arrival [us]. 0: no limit.
        obs: (obs_dim,) float32, finite.
        arrival_ns: When the server took it from its socket, monotonic [ns].
    """

    sequence: int
    client_time_ns: int
    budget_us: int
    obs: np.ndarray
    arrival_ns: int


class Memory:
    """What a policy with memory remembers of one session's episode.

    It advances with each observation that was answered, whether or not the answer arrives.

    Attributes:
        n_seen: Observations since the episode began.
    """

    def __init__(self) -> None:
        self.n_seen = 0
        self._state: np.ndarray | None = None

    def recall(self, out: np.ndarray) -> None:
        """Fills `out` (state_dim,) with the state, which is zeros at the start of an episode."""
        out[...] = 0 if self._state is None else self._state

    def advance(self, state: np.ndarray) -> None:
        """Keeps a copy of the state after an observation."""
        self._state = state.copy()
        self.n_seen += 1

    def clear(self) -> None:
        """Begins an episode."""
        self._state = None
        self.n_seen = 0


@dataclass(eq=False)
class Session:
    """One client.

    Attributes:
        identity: ZeroMQ's routing id.
        ordinal: Number on this server, from 0.
        noise: Its noise.
        memory: What the policy remembers of its episode.
        waiting: Its observation that waits.
        last_sequence: Number of its newest message. It rises, unless two clients share the id.
        last_ns: When it last sent something valid, monotonic [ns].
        n_acts: Answered observations.
        n_late: Observations that waited longer than their budget.
        n_errors: Messages that broke the rules.
        recent: (arrival [ns], server time [us]) of the newest answered requests.
    """

    identity: bytes
    ordinal: int
    noise: NoiseStream
    memory: Memory = field(default_factory=Memory)
    waiting: Request | None = None
    last_sequence: int = 0
    last_ns: int = 0
    n_acts: int = 0
    n_late: int = 0
    n_errors: int = 0
    recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=N_RECENT))

    def to_json(self, now_ns: int) -> dict[str, Any]:
        """Returns the session's row of `stats`: ordinal, counts, rate, times in the server."""
        span_s = (self.recent[-1][0] - self.recent[0][0]) * 1e-9 if self.recent else 0.0
        ordered_us = sorted(server_us for _, server_us in self.recent)
        return {
            "session": self.ordinal,
            "n_acts": self.n_acts,
            "n_late": self.n_late,
            "n_errors": self.n_errors,
            "idle_s": (now_ns - self.last_ns) * 1e-9,
            "hz": (len(ordered_us) - 1) / span_s if span_s else 0.0,
            "p50_us": _quantile(ordered_us, 0.5),
            "p99_us": _quantile(ordered_us, 0.99),
        }


def _quantile(ordered_us: list[int], p: float) -> float:
    """Returns the p-quantile, 0 of none. NumPy's is slow where there are many sessions."""
    return float(ordered_us[nearest_rank(len(ordered_us), p) - 1]) if ordered_us else 0.0


class Sessions:
    """The sessions by routing id. The longest silent idle session makes room for a new one.

    Args:
        seed: Seeds the noise of all sessions.
        limit: Most sessions that are kept.
    """

    def __init__(self, seed: int, limit: int = MAX_SESSIONS):
        self._seed = seed
        self._limit = limit
        self._by_identity: OrderedDict[bytes, Session] = OrderedDict()
        self._n_made = 0

    def __len__(self) -> int:
        return len(self._by_identity)

    def get(self, identity: bytes, now_ns: int) -> Session:
        """Returns the client's session. Makes one for a new client."""
        session = self._by_identity.get(identity)
        if session is None:
            session = Session(identity, self._n_made, NoiseStream(self._seed, self._n_made))
            self._n_made += 1
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
        return list(islice(reversed(self._by_identity.values()), n))

    def forget(self) -> None:
        """Empties the memory of every session: another policy cannot go on with it."""
        for session in self._by_identity.values():
            session.memory.clear()

    def _make_room(self) -> None:
        if len(self._by_identity) < self._limit:
            return
        silent = (key for key, session in self._by_identity.items() if session.waiting is None)
        key = next(silent, None)
        if key is not None:
            del self._by_identity[key]
