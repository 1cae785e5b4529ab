"""Which observations are computed next: those that waited longest, one a session, as many as a batch takes."""

from collections import deque

from policy_server.serving.sessions import Request, Session

MAX_WAITING = 256


class Scheduler:
    """A bounded queue of sessions with an observation that waits.

    Each session is in it once at most and moves behind the others when it was served, so that one that asks without
    pause takes no more turns than any other.

    Args:
        batch: Most observations that are computed at once.
        limit: Most sessions that wait.
    """

    def __init__(self, batch: int, limit: int = MAX_WAITING):
        self.batch, self._limit = batch, limit
        self._queue: deque[Session] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, session: Session, request: Request) -> tuple[bool, Request | None]:
        """Returns whether the request was taken in, and the older one of its session that it replaced.

        The newer observation keeps the session's place in the queue. It is not taken in where the queue is full.
        """
        replaced = session.waiting
        if replaced is None:
            if len(self._queue) >= self._limit:
                return False, None
            self._queue.append(session)
        session.waiting = request
        return True, replaced

    def drop(self, session: Session) -> Request | None:
        """Returns the session's waiting request, which is not computed any more."""
        dropped, session.waiting = session.waiting, None
        if dropped is not None:
            self._queue.remove(session)
        return dropped

    def take(
        self, now_ns: int
    ) -> tuple[list[tuple[Session, Request]], list[tuple[Session, Request]]]:
        """Returns the next batch, and every request that has waited longer than its budget; both leave the queue.

        Args:
            now_ns: Monotonic time [ns].
        """
        batch: list[tuple[Session, Request]] = []
        late: list[tuple[Session, Request]] = []
        for _ in range(len(self._queue)):
            session = self._queue.popleft()
            request = session.waiting
            assert request is not None
            if 0 < request.budget_us * 1000 < now_ns - request.arrival_ns:
                late.append((session, request))
            elif len(batch) < self.batch:
                batch.append((session, request))
            else:
                self._queue.append(session)  # once around the queue: the order stays
                continue
            session.waiting = None
        return batch, late
