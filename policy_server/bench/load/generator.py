"""One thread that plays several robots: sends when a request is due, and writes down what comes back and when."""

import heapq
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policy_server.bench.load.channel import BAD_REPLY, Channel, Reply

LOST, UNSENT = -1, -2  # no answer before the end; the socket took no request
SPIN_NS = 80_000  # the clock is watched for this long before a request is due: sleepers wake late
_LOOK_NS = 20_000_000  # how often to look whether to stop
_RETRY_NS = 10_000_000  # closed loop: pause after a request that could not be sent
_BURST = 4  # requests sent before replies are looked at again
_SILENCE_TIMEOUTS = 5  # without any answer, after which a measurement ends early
_STRAY_WAIT_NS = 50_000_000  # how long to wait for answers too many, when everything is answered

COLUMNS = {  # of the raw samples: name and type
    "scheduled_ns": "q",
    "sent_ns": "q",
    "received_ns": "q",
    "client": "h",
    "status": "h",
    "queue_us": "I",
    "inference_us": "I",
    "server_us": "I",
}


@dataclass(frozen=True)
class Timing:
    """When the clients of one process send.

    Attributes:
        phases_ns: (n_clients,) first request of each client after the common start [ns].
        period_ns: Time between a client's scheduled requests [ns]; 0 for a closed loop: on the answer, at once.
        warmup_ns: Requests scheduled before this much after the start are not measured [ns].
        n_requests: How many to measure; 0 for as many as there are in `duration_ns`.
        duration_ns: Length of the measurement [ns], where `n_requests` is 0.
        timeout_ns: After this an answer counts as lost: a closed loop goes on, the end does not wait longer [ns].
        deadline_ns: Sent along as budget, what has passed since the scheduled time taken off [ns]; 0 for none.
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

    A request's number on the wire is its row here, from 1: rising for each client, and unique in the process.

    Attributes:
        n_duplicate: Answers to what was answered already.
        n_stray: Answers to what that client never asked.

    Args:
        channel: Where the clients send.
        timing: When they do.
    """

    def __init__(self, channel: Channel, timing: Timing):
        self._channel, self._timing = channel, timing
        self._columns = {name: array(code) for name, code in COLUMNS.items()}
        self._scheduled, self._sent, self._received, self._client, self._status, *self._times = (
            self._columns.values()
        )
        self._due: list[tuple[int, int]] = []  # heap of (when [ns], client)
        self._waiting = [-1] * len(
            timing.phases_ns
        )  # closed loop: row of each client's open request
        self._timeouts: deque[tuple[int, int]] = (
            deque()
        )  # closed loop: (when [ns], row), in that order
        self._n_open = 0
        self._first = self._end = -1  # the measured rows; -1 where not known yet
        self._measure_ns = self._heard_ns = 0
        self.n_duplicate = self.n_stray = 0

    def run(
        self, start_ns: int, stop: Callable[[], bool], done: Callable[[], None]
    ) -> dict[str, np.ndarray]:
        """Returns the measured samples, an array for each of COLUMNS.

        The load goes on after `done` until `stop`, so that several processes measure under the load of all.

        Args:
            start_ns: Common start of all clients, monotonic [ns].
            stop: Asked every 20 ms whether to end.
            done: Called once when everything is measured.
        """
        self._due = [
            (start_ns + phase, client) for client, phase in enumerate(self._timing.phases_ns)
        ]
        heapq.heapify(self._due)
        self._measure_ns = start_ns + self._timing.warmup_ns
        self._heard_ns = start_ns
        look_ns, told = start_ns, False
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
        """Sends the requests that are due, a few at most."""
        for _ in range(_BURST):
            if not self._due or self._due[0][0] > now_ns:
                return
            due_ns, client = heapq.heappop(self._due)
            self._send(client, due_ns)

    def _send(self, client: int, due_ns: int) -> None:
        """Sends one request and plans the client's next."""
        timing, sent_ns = self._timing, time.monotonic_ns()
        scheduled_ns = due_ns if timing.period_ns else sent_ns
        row = self._add_row(client, scheduled_ns, sent_ns)
        left_ns = timing.deadline_ns - (sent_ns - scheduled_ns)
        budget_us = max(left_ns // 1000, 1) if timing.deadline_ns else 0
        sent = self._channel.send(client, row + 1, sent_ns, budget_us)
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
        """Returns the new row, which says LOST until an answer comes."""
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
        """Returns how long nothing needs doing [s]."""
        next_ns = min(look_ns, self._due[0][0] - SPIN_NS) if self._due else look_ns
        return max(next_ns - time.monotonic_ns(), 0) * 1e-9

    def _take(self, wait_s: float) -> None:
        for reply in self._channel.receive(wait_s):
            self._record(reply)

    def _record(self, reply: Reply) -> None:
        """Writes an answer into the row of its request; counts it where that has one, or there is none."""
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
        self._received[row], self._status[row] = reply.received_ns, reply.status
        for column, value in zip(self._times, reply.times_us, strict=True):
            column[row] = value
        self._n_open -= 1
        self._next(reply.client, row, reply.received_ns)

    def _give_up(self) -> None:
        """Closed loop: lets the clients go on whose answer has not come in time."""
        now_ns = time.monotonic_ns()
        while self._timeouts and self._timeouts[0][0] <= now_ns:
            _, row = self._timeouts.popleft()
            self._next(self._client[row], row, now_ns)

    def _next(self, client: int, row: int, due_ns: int) -> None:
        """Closed loop: plans the client's next request, if `row` is the one that it waits for."""
        if self._waiting[client] == row:
            self._waiting[client] = -1
            heapq.heappush(self._due, (due_ns, client))

    def _give_up_on_silence(self, now_ns: int) -> None:
        """Ends the measurement where no answer came for so long that the other side must be dead."""
        silence_ns = _SILENCE_TIMEOUTS * self._timing.timeout_ns + 2 * self._timing.period_ns
        if self._end < 0 and now_ns - self._heard_ns > silence_ns:
            self._first, self._end = max(self._first, 0), len(self._sent)

    def _finish(self) -> None:
        """Waits for the open answers, and a little for answers too many."""
        until_ns = time.monotonic_ns() + self._timing.timeout_ns
        while self._n_open and (left_ns := until_ns - time.monotonic_ns()) > 0:
            self._take(left_ns * 1e-9)
        until_ns = time.monotonic_ns() + _STRAY_WAIT_NS
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            self._take(left_ns * 1e-9)

    def _measured(self) -> dict[str, np.ndarray]:
        """Returns the measured rows; those until now where the end was not reached."""
        first = len(self._sent) if self._first < 0 else self._first
        end = self._end if self._end >= 0 else len(self._sent)
        types = {"q": np.int64, "h": np.int16, "I": np.uint32}
        return {
            name: np.array(self._columns[name], types[code])[first:end]
            for name, code in COLUMNS.items()
        }


__all__ = ["BAD_REPLY", "COLUMNS", "LOST", "UNSENT", "Generator", "Timing"]
