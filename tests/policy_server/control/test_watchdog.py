from policy_server.control.watchdog import Watchdog

MS = 1_000_000


def hold(watchdog, begin_ms):
    """A silent tick that begins then and takes 8 ms."""
    return watchdog.may_hold(begin_ms * MS, (begin_ms + 8) * MS)


def test_the_run_ends_before_the_silence_is_longer_than_its_limit():
    """Period 10 ms, limit 30 ms: the tick at 20 ms ends at 28 ms, the next would at 38 ms."""
    watchdog = Watchdog(max_silence_s=0.03, period_s=0.01)
    assert [hold(watchdog, begin_ms) for begin_ms in (0, 10, 20)] == [True, True, False]
    assert watchdog.n_holds == 3
    assert "for 0.028 s (max_silence_s 0.03)" in watchdog.error()


def test_a_usable_action_ends_the_silence():
    watchdog = Watchdog(max_silence_s=0.03, period_s=0.01)
    for begin_ms in range(0, 100, 20):
        assert hold(watchdog, begin_ms)
        watchdog.end_silence()
    assert watchdog.n_holds == 5


def test_the_error_says_what_failed_last():
    watchdog = Watchdog(max_silence_s=0.03, period_s=0.01)
    assert watchdog.error().endswith("last failure: its actions are not finite")
    watchdog.last_failure = "no reply"
    assert watchdog.error().endswith("last failure: no reply")
