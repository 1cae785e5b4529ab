"""However a run ends: hold, disconnect() once, and a report with every reason."""

import os
import signal
import threading
import time

import pytest
from support.driving import Scripted, drive, failing, still, with_rate

from policy_server.contract.signals import STOP_SIGNALS, Stop
from policy_server.control import robot_use
from policy_server.control.robot_io import RobotError


@pytest.fixture
def manifest(bundle_path):
    return with_rate(bundle_path, 100.0)


@pytest.fixture
def robot(tiny):
    return tiny.Robot()


ERRORS = [OSError("port gone"), RuntimeError("torque"), SystemExit(3), TypeError("a bug")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_disconnect_that_fails_leaves_the_report(robot, manifest, error):
    calls = failing(robot, "disconnect", {"always": error})
    report = drive(robot, Scripted(manifest, still), 20)
    assert report.ticks == 20
    assert report.error == f"disconnect() failed: {type(error).__name__}: {error}"
    assert calls == [1]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_connect_that_fails_half_way_is_disconnected(robot, manifest, error):
    failing(robot, "connect", {1: error})
    report = drive(robot, Scripted(manifest, still), 20)
    assert robot.events == ["disconnect"] and robot.sent == []
    assert (report.ticks, report.interrupted) == (0, False)
    assert report.error == f"connect() failed: {type(error).__name__}: {error}"
    assert report.to_json()["act_us"] == {"n": 0}


def test_the_report_has_every_reason(robot, manifest):
    failing(robot, "get_observation", {4: TypeError("no float")})
    failing(robot, "send_action", {3: OSError("bus"), 4: OSError("bus"), 5: OSError("bus")})
    failing(robot, "disconnect", {1: ConnectionError("not connected")})
    report = drive(robot, Scripted(manifest, still), 20)
    assert report.error.split("; ") == [
        "robot or callback failed: TypeError: no float",
        "could not send the last safe target: Lost: target lost: OSError: bus",
        "disconnect() failed: ConnectionError: not connected",
    ]


def test_the_last_target_is_sent_again_where_one_write_is_lost(robot, manifest):
    calls = failing(robot, "send_action", {4: OSError("bus")})
    assert drive(robot, Scripted(manifest, still), 3).error is None
    assert calls == [1, 2, 3, 4, 5] and len(robot.sent) == 4


def test_a_refusal_says_too_that_the_disconnect_failed(robot, manifest):
    robot.action_features = {"a.pos": float}
    calls = failing(robot, "disconnect", {1: OSError("port gone")})
    with pytest.raises(RobotError, match=r"action has 1 numbers.*; disconnect\(\) failed: OSError"):
        drive(robot, Scripted(manifest, still), 1)
    assert calls == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_what_a_callback_raises_ends_the_run_safely(robot, manifest, error):
    def on_tick(tick, obs, target):
        if tick == 4:
            raise error

    report = drive(robot, Scripted(manifest, still), 20, on_tick=on_tick)
    assert robot.events == ["connect", "disconnect"] and len(robot.sent) == 6
    assert report.ticks == 4
    assert report.interrupted == isinstance(error, KeyboardInterrupt)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), BrokenPipeError(), OSError(5, "IO")]
)
def test_a_callback_that_cannot_write_is_dropped_and_said(robot, manifest, error):
    ticks = []

    def on_tick(tick, obs, target):
        ticks.append(tick)
        if tick == 4:
            raise error

    report = drive(robot, Scripted(manifest, still), 20, on_tick=on_tick)
    assert (report.ticks, ticks) == (20, [0, 1, 2, 3, 4])
    assert "on_tick failed at tick 4 and was not called again" in report.error


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize("where", ["connect", "get_observation", "send_action", "disconnect"])
def test_a_signal_at_any_time_ends_safely(robot, manifest, number, where):
    before = signal.getsignal(number)
    true = getattr(robot, where)

    def signalled(*args):
        os.kill(os.getpid(), number)
        return true(*args)

    setattr(robot, where, signalled)
    report = drive(robot, Scripted(manifest, still), 3)
    assert robot.events == ["connect", "disconnect"]
    assert report.error is None
    expected = {"connect": 0, "get_observation": 0, "send_action": 1, "disconnect": 3}
    assert report.ticks == expected[where]
    assert report.interrupted == (where != "disconnect")
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize("where", ["connect", "send_action", "disconnect"])
def test_many_signals_break_nothing_off_but_the_work(robot, manifest, number, where):
    """Three at once: a second Ctrl-C ends connect() and the ticks, and never the disconnect()."""
    true = getattr(robot, where)

    def signalled(*args):
        for _ in range(3):
            os.kill(os.getpid(), number)
        return true(*args)

    setattr(robot, where, signalled)
    report = drive(robot, Scripted(manifest, still), 3)
    assert robot.events[-1] == "disconnect" and robot.events.count("disconnect") == 1
    assert report.error is None
    assert report.ticks == (3 if where == "disconnect" else report.ticks)
    assert report.interrupted == (where != "disconnect")


def test_a_disconnect_that_hangs_can_be_broken_off(robot, manifest, monkeypatch):
    """The first Ctrl-C would wait for HANGS_S; here the disconnect() counts as hanging at once."""
    monkeypatch.setattr(robot_use, "HANGS_S", 1e-9)

    def hang():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    robot.disconnect = hang
    report = drive(robot, Scripted(manifest, still), 3)
    assert report.error == "disconnect() failed: broken off by Ctrl-C"
    assert report.ticks == 3


def test_a_run_that_is_stopped_before_it_begins_connects_nothing(robot, manifest):
    stop = Stop()
    stop.handle(signal.SIGTERM, None)
    report = drive(robot, Scripted(manifest, still), 3, stop=stop)
    assert (robot.events, report.ticks, report.interrupted) == ([], 0, True)


def test_outside_the_main_thread_a_run_ends_as_safely(robot, manifest):
    failing(robot, "disconnect", {1: OSError("port gone")})
    reports = []
    run = threading.Thread(
        target=lambda: reports.append(drive(robot, Scripted(manifest, still), 3))
    )
    run.start()
    run.join(60)
    assert reports[0].error == "disconnect() failed: OSError: port gone"
