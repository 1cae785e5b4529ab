"""Accounts for requests: how often each was answered, and with what."""

from __future__ import annotations

from collections import Counter
from typing import Any

from policy_server.contract.wire import Header, Kind, Status


class Ledger:
    """Counts the answers to every sequence number of one client. The first is 1.

    Attributes:
        kinds: Answers by name: ACT_REPLY, or the name of an error's status.
        n_stray: Answers to requests that were never sent.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.n_stray = 0
        self._answers = bytearray(1)  # by sequence number; 0 is never asked; stays at 255
        self._unsent: set[int] = set()

    @property
    def n_asked(self) -> int:
        """The number of requests so far."""
        return len(self._answers) - 1

    def ask(self) -> int:
        """Returns the sequence number of the next request."""
        self._answers.append(0)
        return len(self._answers) - 1

    def unsent(self, sequence: int) -> None:
        """Notes that a request was not sent, so that no answer is expected."""
        self._unsent.add(sequence)

    def answer(self, header: Header) -> None:
        """Counts an answer."""
        self.kinds[_name(header)] += 1
        if 0 < header.sequence < len(self._answers):
            self._answers[header.sequence] = min(self._answers[header.sequence] + 1, 255)
        else:
            self.n_stray += 1

    def verdict(self) -> dict[str, Any]:
        """Returns n_sent, n_once, n_lost, n_twice (twice or more), n_stray and n_unsent."""
        never = self._answers[1:].count(0)
        once = self._answers[1:].count(1)
        n_unsent = sum(self._answers[sequence] == 0 for sequence in self._unsent)
        return {
            "n_sent": self.n_asked - n_unsent,
            "n_once": once,
            "n_lost": never - n_unsent,
            "n_twice": self.n_asked - never - once,
            "n_stray": self.n_stray,
            "n_unsent": n_unsent,
        }


def total(ledgers: list[Ledger]) -> dict[str, Any]:
    """Returns the sums of all clients' verdicts, and the number of answers by kind."""
    verdicts = [ledger.verdict() for ledger in ledgers]
    sums = {name: sum(verdict[name] for verdict in verdicts) for name in Ledger().verdict()}
    return {**sums, "answers": dict(sum((ledger.kinds for ledger in ledgers), Counter()))}


def clean(verdict: dict[str, Any]) -> bool:
    """Returns whether each request was answered once, with an action."""
    faults = sum(verdict[name] for name in ("n_lost", "n_twice", "n_stray", "n_unsent"))
    return verdict["n_sent"] > 0 and not faults and set(verdict["answers"]) == {"ACT_REPLY"}


def _name(header: Header) -> str:
    if header.kind != Kind.ERROR:
        return Kind(header.kind).name
    try:
        return Status(header.status).name
    except ValueError:
        return f"status {header.status}"
