import os
import signal
import threading
import time

import pytest

from policy_server.contract.signals import (
    KEYBOARD,
    STOP_SIGNALS,
    handling,
    noting_hang_up,
    stop_on_signals,
)


def send(number):
    os.kill(os.getpid(), number)


def test_handlers_hold_inside_the_block_only():
    before = signal.getsignal(signal.SIGTERM)
    seen = []
    with handling({signal.SIGTERM: lambda number, frame: seen.append(number)}):
        signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), handling({signal.SIGTERM: signal.SIG_IGN}):
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_of_them_asks_to_stop_and_its_handler_comes_back(number):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        send(number)
        assert stop.is_set()
    assert signal.getsignal(number) == before


def test_a_closed_terminal_and_the_usual_ones_are_among_them():
    names = {signal.Signals(number).name for number in STOP_SIGNALS}
    assert names == {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"}


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_only_a_further_key_breaks_in(number):
    with stop_on_signals() as stop:
        send(signal.SIGTERM)
        if number in KEYBOARD:
            with pytest.raises(KeyboardInterrupt):
                send(number)
        else:
            send(number)
        assert stop.is_set()


def test_inside_a_breakable_block_one_breaks_in_and_outside_none():
    with stop_on_signals(breaks=False) as stop:
        for _ in range(3):
            send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), stop.breakable():
            try:
                send(signal.SIGINT)
            finally:
                send(signal.SIGINT)  # what ends the block is not broken off
        send(signal.SIGINT)


def test_a_young_block_is_not_broken():
    with stop_on_signals(breaks=False) as stop:
        send(signal.SIGINT)
        with stop.breakable(after_s=3600):
            send(signal.SIGINT)
        assert stop.is_set()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_what_the_process_was_started_to_ignore_stays_ignored(number):
    """As under nohup, and in a shell's background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            send(number)
            time.sleep(0)
            assert not stop.is_set()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_second_thread_is_left_alone():
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.append(stop.is_set())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert seen == [False] and signal.getsignal(signal.SIGTERM) == before


def test_a_hang_up_is_noted():
    before = signal.getsignal(signal.SIGHUP)
    with noting_hang_up() as hung_up:
        assert not hung_up.is_set()
        signal.raise_signal(signal.SIGHUP)
        assert hung_up.is_set()
    assert signal.getsignal(signal.SIGHUP) is before
