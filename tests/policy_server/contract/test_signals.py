import signal
import threading

import pytest

from policy_server.contract.signals import handling, noting_hang_up, stop_on_signals


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop(number):
    with stop_on_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_is_only_another_request():
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()


def test_another_thread_installs_nothing():
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def work():
        with stop_on_signals() as stop:
            inside.append((signal.getsignal(signal.SIGTERM), stop.is_set()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, False)]


def test_a_hang_up_is_noted():
    before = signal.getsignal(signal.SIGHUP)
    with noting_hang_up() as hung_up:
        assert not hung_up.is_set()
        signal.raise_signal(signal.SIGHUP)
        assert hung_up.is_set()
    assert signal.getsignal(signal.SIGHUP) is before
