import gc
import os
import time

import pytest
from support.fake_clock import FakeClock

from policy_server.contract.clock import Clock, RealtimeError, quiet, wait_until

WAIT_NS = 10_000_000


def test_wait_until_sleeps_then_watches():
    fake = FakeClock(oversleep_s=50e-6)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        fake.sleep(seconds)

    deadline_ns = fake.t_ns + WAIT_NS
    ended_ns = wait_until(deadline_ns, 200_000, Clock(fake.now_ns, sleep))
    assert deadline_ns <= ended_ns <= deadline_ns + 1000
    assert slept == [pytest.approx(0.0098, abs=2e-6)]


def test_a_deadline_in_the_past_returns_at_once():
    fake = FakeClock()
    assert wait_until(fake.t_ns - 5, 200_000, fake.clock) == fake.t_ns


def test_wait_until_on_the_real_clock():
    deadline_ns = time.monotonic_ns() + 3_000_000
    assert wait_until(deadline_ns) >= deadline_ns


@pytest.mark.parametrize("collecting", [True, False])
def test_quiet_stops_the_garbage_collector_and_restores_it(collecting):
    was_enabled = gc.isenabled()
    try:
        gc.enable() if collecting else gc.disable()
        with quiet():
            assert not gc.isenabled()
        assert gc.isenabled() == collecting
    finally:
        gc.enable() if was_enabled else gc.disable()


def test_a_quiet_block_inside_another_collects_nothing(monkeypatch):
    """A collection takes half a second where many objects live; turns would take one each."""
    collected = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    gc.enable()
    try:
        with quiet():
            for _ in range(3):
                with quiet():
                    assert not gc.isenabled()
                assert not gc.isenabled()
    finally:
        gc.disable()  # as it is in all tests
    assert collected == [1]


def test_quiet_restores_the_scheduler(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, _: asked.append(policy))
    before = os.sched_getscheduler(0)
    with quiet(realtime=True):
        assert asked == [os.SCHED_FIFO]
    assert asked == [os.SCHED_FIFO, before]


def test_refused_realtime_is_an_error(monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(RealtimeError, match="CAP_SYS_NICE"), quiet(realtime=True):
        pass
