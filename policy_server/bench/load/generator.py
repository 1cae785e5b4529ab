"""Plays several robots in one thread: sends requests when they are due and records the answers."""

import heapq
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policy_server.bench.load.channel import BAD_REPLY, Channel, Reply
from policy_server.contract.wire import Header, Kind

LOST = -1  # status of a request without an answer
UNSENT = -2  # status of a request that the socket did not take
SPIN_NS = 80_000  # how long to watch the clock before a request is due: sleepers wake late
_LOOK_NS = 20_000_000  # time between two looks whether to stop
_RETRY_NS = 10_000_000  # closed loop: pause after a request that could not be sent
_BURST = 4  # most requests sent before replies are read again
_SILENCE_TIMEOUTS = 5  # timeouts without any answer that end a measurement early
_STRAY_WAIT_NS = 50_000_000  # how long to wait for surplus answers at the end

COLUMNS = {  # name and array type of the raw samples
    "scheduled_ns": "q",
    "sent_ns": "q",
    "received_ns": "q",
    "client": "h",
    "status": "h",
    "queue_us": "I",
    "inference_us": "I",
    "server_us": "I",
}
_DTYPES = {"q": np.int64, "h": np.int16, "I": np.uint32}

__all__ = ["BAD_REPLY", "COLUMNS", "LOST", "UNSENT", "Generator", "Timing"]


@dataclass(frozen=True)
class Timing:
    """When the clients of one process send.

    Attributes:
        phases_ns: (n_clients,) first request of each client after the common start [ns].
        period_ns: Time between a client's scheduled requests [ns]. 0: closed loop, each request
            follows the last answer at once.
        warmup_ns: Requests scheduled earlier than this after the start are not measured [ns].
        n_requests: Number of requests to measure. 0: as many as there are in `duration_ns`.
        duration_ns: Length of the measurement where `n_requests` is 0 [ns].
        timeout_ns: Age at which an answer counts as lost [ns]. A closed loop then goes on, and the
            end of the measurement waits no longer.
        deadline_ns: Deadline of each request, from its scheduled time on [ns]. What is left of it
            is sent as the budget. 0: none.
    """

    phases_ns: list[int]
    period_ns: int
    warmup_ns: int
    n_requests: int
    duration_ns: int
    timeout_ns: int
    deadline_ns: int


class Generator:
    """Drives the clients of one channel.

    A request's number on the wire is its row in the samples plus 1. The numbers rise for each
    client and are unique in the process.

    Attributes:
        n_duplicate: Number of answers to requests that were answered already.
        n_stray: Number of answers to requests that the client never made.

    Args:
        channel: The way to the policy.
        timing: When the clients send.
    """

    def __init__(self, channel: Channel, timing: Timing):
        self._channel = channel
        self._timing = timing
        self._columns = {name: array(code) for name, code in COLUMNS.items()}
        self._scheduled = self._columns["scheduled_ns"]
        self._sent = self._columns["sent_ns"]
        self._received = self._columns["received_ns"]
        self._client = self._columns["client"]
        self._status = self._columns["status"]
        self._times = [self._columns[name] for name in ("queue_us", "inference_us", "server_us")]
        self._due: list[tuple[int, int]] = []  # heap of (when [ns], client)
        # Closed loop: the row of each client's open request, and (when [ns], row) of each timeout.
        self._waiting = [-1] * len(timing.phases_ns)
        self._timeouts: deque[tuple[int, int]] = deque()
        self._n_open = 0
        self._first = -1  # first measured row; -1 while it is unknown
        self._end = -1  # one past the last measured row; -1 while it is unknown
        self._measure_ns = 0
        self._heard_ns = 0
        self.n_duplicate = 0
        self.n_stray = 0

    def run(
        self, start_ns: int, stop: Callable[[], bool], done: Callable[[], None]
    ) -> dict[str, np.ndarray]:
        """Returns the measured samples, an array for each of COLUMNS.

        The load goes on after `done` until `stop`, so that every process measures under the load of
        all.

        Args:
            start_ns: Common start of all clients, monotonic [ns].
            stop: Returns whether to end. It is asked every 20 ms.
            done: Called once, when everything is measured.
        """
        self._due = [
            (start_ns + phase, client) for client, phase in enumerate(self._timing.phases_ns)
        ]
        heapq.heapify(self._due)
        self._measure_ns = start_ns + self._timing.warmup_ns
        self._heard_ns = start_ns
        look_ns = start_ns
        told = False
        while True:
            now_ns = time.monotonic_ns()
            if now_ns >= look_ns:
                if stop():
                    break
                look_ns = now_ns + _LOOK_NS
                self._give_up_on_silence(now_ns)
            self._send_due(now_ns)
            self._take(self._wait_s(look_ns))
            self._give_up()
            if self._end >= 0 and not told:
                told = True
                done()
        self._finish()
        return self._measured()

    def _send_due(self, now_ns: int) -> None:
        """Sends the requests that are due, at most _BURST of them."""
        for _ in range(_BURST):
            if not self._due or self._due[0][0] > now_ns:
                return
            due_ns, client = heapq.heappop(self._due)
            self._send(client, due_ns)

    def _send(self, client: int, due_ns: int) -> None:
        """Sends one request and plans the client's next."""
        timing = self._timing
        sent_ns = time.monotonic_ns()
        scheduled_ns = due_ns if timing.period_ns else sent_ns
        row = self._add_row(client, scheduled_ns, sent_ns)
        left_ns = timing.deadline_ns - (sent_ns - scheduled_ns)
        budget_us = max(left_ns // 1000, 1) if timing.deadline_ns else 0
        sent = self._channel.send(client, Header(Kind.ACT, 0, row + 1, sent_ns, budget_us))
        self._n_open += sent
        if not sent:
            self._status[row] = UNSENT
        if timing.period_ns:
            heapq.heappush(self._due, (due_ns + timing.period_ns, client))
        elif sent:
            self._waiting[client] = row
            self._timeouts.append((sent_ns + timing.timeout_ns, row))
        else:
            heapq.heappush(self._due, (sent_ns + _RETRY_NS, client))

    def _add_row(self, client: int, scheduled_ns: int, sent_ns: int) -> int:
        """Returns the number of a new row. Its status is LOST until an answer comes."""
        row = len(self._sent)
        self._scheduled.append(scheduled_ns)
        self._sent.append(sent_ns)
        self._received.append(-1)
        self._client.append(client)
        self._status.append(LOST)
        for column in self._times:
            column.append(0)
        if self._end < 0:
            self._mark(row, scheduled_ns)
        return row

    def _mark(self, row: int, scheduled_ns: int) -> None:
        """Notes where the measured rows begin and end."""
        timing = self._timing
        if self._first < 0 and scheduled_ns >= self._measure_ns:
            self._first = row
        if self._first < 0:
            return
        if timing.n_requests and row - self._first >= timing.n_requests:
            self._end = row
        if not timing.n_requests and scheduled_ns >= self._measure_ns + timing.duration_ns:
            self._end = row

    def _wait_s(self, look_ns: int) -> float:
        """Returns the time until something must be done [s]."""
        next_ns = min(look_ns, self._due[0][0] - SPIN_NS) if self._due else look_ns
        return max(next_ns - time.monotonic_ns(), 0) * 1e-9

    def _take(self, wait_s: float) -> None:
        for reply in self._channel.receive(wait_s):
            self._record(reply)

    def _record(self, reply: Reply) -> None:
        """Writes an answer into its request's row. Counts a duplicate or stray answer."""
        row = reply.sequence - 1
        if (
            not 0 <= row < len(self._sent)
            or self._client[row] != reply.client
            or self._status[row] == UNSENT
        ):
            self.n_stray += 1
            return
        if self._received[row] >= 0:
            self.n_duplicate += 1
            return
        self._heard_ns = reply.received_ns
        self._received[row] = reply.received_ns
        self._status[row] = reply.status
        for column, value in zip(self._times, reply.times_us, strict=True):
            column[row] = value
        self._n_open -= 1
        self._next(reply.client, row, reply.received_ns)

    def _give_up(self) -> None:
        """Closed loop: plans the next request of each client whose answer is too late."""
        now_ns = time.monotonic_ns()
        while self._timeouts and self._timeouts[0][0] <= now_ns:
            _, row = self._timeouts.popleft()
            self._next(self._client[row], row, now_ns)

    def _next(self, client: int, row: int, due_ns: int) -> None:
        """Closed loop: plans the client's next request, if it waits for the answer of `row`."""
        if self._waiting[client] == row:
            self._waiting[client] = -1
            heapq.heappush(self._due, (due_ns, client))

    def _give_up_on_silence(self, now_ns: int) -> None:
        """Ends the measurement after so long without an answer that the server must be dead."""
        silence_ns = _SILENCE_TIMEOUTS * self._timing.timeout_ns + 2 * self._timing.period_ns
        if self._end < 0 and now_ns - self._heard_ns > silence_ns:
            self._first = max(self._first, 0)
            self._end = len(self._sent)

    def _finish(self) -> None:
        """Waits for the open answers, then a little for surplus ones."""
        until_ns = time.monotonic_ns() + self._timing.timeout_ns
        while self._n_open and (left_ns := until_ns - time.monotonic_ns()) > 0:
            self._take(left_ns * 1e-9)
        until_ns = time.monotonic_ns() + _STRAY_WAIT_NS
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            self._take(left_ns * 1e-9)

    def _measured(self) -> dict[str, np.ndarray]:
        """Returns the measured rows. Before the end is reached, they are all rows so far."""
        first = len(self._sent) if self._first < 0 else self._first
        end = self._end if self._end >= 0 else len(self._sent)
        return {
            name: np.array(self._columns[name], _DTYPES[code])[first:end]
            for name, code in COLUMNS.items()
        }
