"""Decides which observations are computed next: one a session, the longest waiting first."""

from collections import deque

from policy_server.serving.sessions import Request, Session

MAX_WAITING = 256
Waiting = tuple[Session, Request]


class Scheduler:
    """A bounded queue of sessions with a waiting observation.

    Each session is in it once at most. A served session moves behind the others, so that one that
    asks without pause takes no more turns than another.

    Attributes:
        batch: Most observations that are computed at once.

    Args:
        batch: See above.
        limit: Most sessions that wait.
    """

    def __init__(self, batch: int, limit: int = MAX_WAITING):
        self.batch = batch
        self._limit = limit
        self._queue: deque[Session] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, session: Session, request: Request) -> tuple[bool, Request | None]:
        """Returns whether the request was queued, and the session's older request that it replaced.

        The newer one keeps the session's place in the queue. A request is not queued where the
        queue is full.
        """
        replaced = session.waiting
        if replaced is None:
            if len(self._queue) >= self._limit:
                return False, None
            self._queue.append(session)
        session.waiting = request
        return True, replaced

    def drop(self, session: Session) -> Request | None:
        """Returns the session's waiting request, and takes it out of the queue."""
        dropped = session.waiting
        if dropped is not None:
            session.waiting = None
            self._queue.remove(session)
        return dropped

    def take(self, now_ns: int) -> tuple[list[Waiting], list[Waiting]]:
        """Returns the next batch, and all requests that have waited longer than their budget.

        Both leave the queue.

        Args:
            now_ns: Monotonic time [ns].
        """
        batch: list[Waiting] = []
        late: list[Waiting] = []
        for _ in range(len(self._queue)):
            session = self._queue.popleft()
            request = session.waiting
            assert request is not None
            if 0 < request.budget_us * 1000 < now_ns - request.arrival_ns:
                late.append((session, request))
            elif len(batch) < self.batch:
                batch.append((session, request))
            else:
                self._queue.append(session)  # Once around the queue: the order stays.
                continue
            session.waiting = None
        return batch, late
