"""Runs many clients in a closed loop in one thread: each asks again as soon as it is answered."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

import numpy as np

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind
from policy_server.transport.link import connect
from soaking.ledger import Ledger

ANSWER_S = 10.0  # a request without an answer counts as lost after this time
MAX_LOST = 3  # a client gives up after so many lost requests in a row


class Asker:
    """One client on its own link, which accounts for every request.

    Attributes:
        ledger: Its account.
        latencies_us: Latencies of its answered requests in order [us].
        longest_gap_s: Longest time between two answers [s].
        n_lost_in_a_row: Requests without an answer since its last answer.

    Args:
        endpoint: The server's endpoint.
        rows: Observations (n, obs_dim), which it sends in turn.
    """

    def __init__(self, endpoint: str, rows: np.ndarray):
        self.ledger = Ledger()
        self.latencies_us = array("f")
        self.longest_gap_s = 0.0
        self.n_lost_in_a_row = 0
        self._link = connect(endpoint)
        self._payloads = [wire.float_bytes(row) for row in rows]
        self._waiting: tuple[int, int] | None = None  # sequence, sent [ns]
        self._answered_ns = 0

    def send(self) -> None:
        """Sends the next request."""
        sequence = self.ledger.ask()
        now_ns = time.monotonic_ns()
        payload = self._payloads[sequence % len(self._payloads)]
        frame = wire.encode(Header(Kind.ACT, 0, sequence, now_ns), payload)
        if self._link.send(frame, now_ns + int(ANSWER_S * 1e9)):
            self._waiting = (sequence, now_ns)
        else:
            self.ledger.unsent(sequence)

    def receive(self) -> tuple[Header, bytes] | None:
        """Returns the answer to the request under way, or None where none comes in ANSWER_S."""
        self.n_lost_in_a_row += 1
        if self._waiting is None:
            return None
        sequence, sent_ns = self._waiting
        while (data := self._link.receive(sent_ns + int(ANSWER_S * 1e9))) is not None:
            header, payload = wire.decode(data)
            self.ledger.answer(header)
            if header.sequence == sequence:
                self._note(sent_ns)
                return header, bytes(payload)
        self._waiting = None
        return None

    def finish(self, wait_s: float) -> None:
        """Counts what still comes within `wait_s`, and closes."""
        until_ns = time.monotonic_ns() + int(wait_s * 1e9)
        while (data := self._link.receive(until_ns)) is not None:
            self.ledger.answer(wire.decode(data)[0])
        self._link.close()

    def _note(self, sent_ns: int) -> None:
        now_ns = time.monotonic_ns()
        self._waiting = None
        self.n_lost_in_a_row = 0
        self.latencies_us.append((now_ns - sent_ns) / 1000)
        if self._answered_ns:
            self.longest_gap_s = max(self.longest_gap_s, (now_ns - self._answered_ns) * 1e-9)
        self._answered_ns = now_ns


def latencies_of(askers: list[Asker]) -> np.ndarray:
    """Returns the latencies of all clients, (n,) [us]."""
    return np.concatenate([np.frombuffer(asker.latencies_us, np.float32) for asker in askers])


def closed_loop(
    askers: list[Asker],
    more: Callable[[int], bool],
    heard: Callable[[int, Header, bytes], None] = lambda *_: None,
    settle_s: float = 0.5,
) -> None:
    """Lets all clients ask in turn, each with one request under way, until all are answered.

    Args:
        askers: The clients.
        more: Takes the number of requests sent and returns whether to send another one.
        heard: Called with each answer: index of the client, header, payload.
        settle_s: How long to wait at the end for answers to no request [s].
    """
    n_sent = 0
    active = []
    for asker in askers:
        if more(n_sent):
            asker.send()
            n_sent += 1
            active.append(asker)
    while active:
        for index, asker in enumerate(askers):
            if asker not in active:
                continue
            found = asker.receive()
            if found is not None:
                heard(index, *found)
            if asker.n_lost_in_a_row < MAX_LOST and more(n_sent):
                asker.send()
                n_sent += 1
            else:
                active.remove(asker)
    for asker in askers:
        asker.finish(settle_s / len(askers))
