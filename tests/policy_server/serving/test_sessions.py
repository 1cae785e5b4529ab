"""Sessions, their numbers, and the order of their turns."""

import numpy as np
import pytest

from policy_server.serving.scheduler import Scheduler
from policy_server.serving.sessions import Request, Sessions


def test_sessions_are_bounded_and_the_longest_silent_goes():
    sessions = Sessions(seed=0, limit=2)
    ordinals = [
        sessions.get(name, now_ns).ordinal
        for now_ns, name in enumerate((b"a", b"b", b"a", b"c", b"a", b"b"))
    ]
    assert ordinals == [0, 1, 0, 2, 0, 3]
    assert len(sessions) == 2


def test_a_session_that_waits_for_an_answer_is_kept():
    sessions = Sessions(seed=0, limit=2)
    waiting = sessions.get(b"a", 0)
    waiting.waiting = Request(1, 0, 0, np.zeros(3), 0)
    for name in (b"b", b"c", b"d"):
        sessions.get(name, 1)
    assert sessions.find(b"a") is waiting
    assert sessions.find(b"b") is None and sessions.find(b"d") is not None


def test_numbers_of_a_session():
    session = Sessions(seed=0).get(b"a", 1_000_000_000)
    counts = {"session": 0, "n_acts": 0, "n_late": 0, "n_errors": 0}
    times = {"idle_s": 2.0, "hz": 0.0, "p50_us": 0.0, "p99_us": 0.0}
    assert session.to_json(3_000_000_000) == {**counts, **times}
    for k in range(101):
        session.recent.append((k * 20_000_000, k))
    row = session.to_json(3_000_000_000)
    assert row["hz"] == pytest.approx(50) and (row["p50_us"], row["p99_us"]) == (50, 99)


def filled(ages_and_budgets_us, batch=2):
    sessions = Sessions(seed=0)
    scheduler = Scheduler(batch)
    for k, (age_us, budget_us) in enumerate(ages_and_budgets_us):
        session = sessions.get(b"%d" % k, 0)
        request = Request(k, 0, budget_us, np.zeros(3), arrival_ns=-age_us * 1000)
        assert scheduler.put(session, request) == (True, None)
    return scheduler


def taken(scheduler):
    return [[request.sequence for _, request in part] for part in scheduler.take(0)]


def test_the_longest_waiting_come_first_and_the_late_leave():
    scheduler = filled([(9, 0), (8, 7), (7, 7), (6, 0), (5, 4)])
    assert taken(scheduler) == [[0, 2], [1, 4]]
    assert taken(scheduler) == [[3], []]
    assert taken(scheduler) == [[], []] and len(scheduler) == 0


def test_the_bound_counts_sessions_not_observations():
    sessions = Sessions(seed=0)
    scheduler = Scheduler(batch=1, limit=1)
    first = sessions.get(b"a", 0)
    second = sessions.get(b"b", 0)
    requests = [Request(k, 0, 0, np.zeros(3), 0) for k in range(3)]
    assert scheduler.put(first, requests[0]) == (True, None)
    assert scheduler.put(second, requests[1]) == (False, None)
    assert scheduler.put(first, requests[2]) == (True, requests[0])
    assert scheduler.drop(first) is requests[2] and scheduler.drop(first) is None
    assert scheduler.put(second, requests[1]) == (True, None)
