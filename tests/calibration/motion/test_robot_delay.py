import json

import numpy as np
import pytest

from calibration import file
from calibration.file import CalibrationError
from calibration.motion.robot_delay import measure
from edp_robot.cli import calibration_commands as commands


def run(robot, seconds=6.0, hz=50.0, **kwargs):
    return measure(robot, seconds, hz, wait_until=robot.wait_until, now_ns=robot.now_ns, **kwargs)


@pytest.mark.parametrize("delay_s", [0.0, 0.0305, 0.08])
def test_a_robots_injected_delay_comes_back(FakeRobot, delay_s):
    """The reading is of 2 ms before the command, which the measurement knows and takes off."""
    result = run(FakeRobot(delay_s))
    assert result.delay_s == pytest.approx(delay_s, abs=0.0015)
    assert result.delay_low_s < result.delay_s < result.delay_high_s < result.lag_s
    assert (
        result.n_used == 3
        and set(result.joints) == {"pan", "lift", "roll"}
        and result.n_late_ticks == 0
    )


def test_the_robot_moves_little_and_returns(FakeRobot):
    robot = FakeRobot()
    start = np.round(robot.x / 0.0015) * 0.0015
    run(robot, amplitude=0.05)
    sent = np.array(robot.sent)
    assert np.abs(sent - start).max() == pytest.approx(0.05, abs=1e-9)
    np.testing.assert_allclose(sent[-1], start)
    assert robot.log == ["connect", "disconnect"]


def test_a_connected_robot_stays_connected(FakeRobot):
    robot = FakeRobot()
    robot.is_connected = True
    run(robot, 4.0)
    assert robot.log == []


def test_a_failure_sends_the_robot_back_and_disconnects(FakeRobot):
    robot = FakeRobot(fail_at=80)
    with pytest.raises(ConnectionError, match="bus"):
        run(robot)
    assert robot.log == ["connect", "disconnect"]
    np.testing.assert_allclose(robot.sent[-1], [0.3, -0.7, 0.0], atol=0.001)


def test_a_stuck_joint_is_left_out_and_named(FakeRobot):
    result = run(FakeRobot(stuck=(1,)))
    assert result.n_used == 2 and result.delay_s == pytest.approx(0.03, abs=0.0015)
    assert any(text.startswith("lift: measured never changes") for text in result.warnings)
    with pytest.raises(CalibrationError, match=r"no joint followed.*roll: measured never changes"):
        run(FakeRobot(stuck=(0, 1, 2)))


def test_chosen_joints_only(FakeRobot):
    robot = FakeRobot()
    result = run(robot, joints=("roll",))
    assert set(result.joints) == {"roll"} and result.delay_s == pytest.approx(0.03, abs=0.002)
    assert (np.ptp(np.array(robot.sent), axis=0) > 0).tolist() == [
        False,
        False,
        True,
    ]  # the others are held
    with pytest.raises(CalibrationError, match=r"cannot move \['wrist'\].*'lift', 'pan', 'roll'"):
        run(FakeRobot(), joints=("wrist",))


def test_late_ticks_are_told(FakeRobot):
    assert any(
        "ticks came late (worst 8.0 ms)" in text for text in run(FakeRobot(late_s=0.008)).warnings
    )


@pytest.mark.parametrize(
    "bad", [{"seconds": 1.0}, {"hz": 0.0}, {"amplitude": -1.0}, {"seconds": float("nan")}]
)
def test_bad_settings_are_refused(FakeRobot, bad):
    with pytest.raises(CalibrationError, match=r"expected seconds of 4\.0 or more"):
        run(FakeRobot(), **bad)


def test_the_command_prints_and_writes(FakeRobot, tmp_path, capsys):
    robot, out = FakeRobot(), tmp_path / "calibration.json"
    file.save(out, "fake", {"joints": {"zero": 1.0}})
    clock = {"wait_until": robot.wait_until, "now_ns": robot.now_ns}
    assert commands.latency(robot, 6.0, 50.0, 0, out, tmp_path / "result.json", **clock) == 0
    saved = file.load(out)
    assert saved.section("latency")["delay_s"] == pytest.approx(0.03, abs=0.0015)
    assert saved.section("joints") == {"zero": 1.0}
    assert json.loads((tmp_path / "result.json").read_text()) == saved.section("latency")
    printed = capsys.readouterr().out
    assert "delay [ms]" in printed and "pan" in printed and "95 %" in printed


def test_the_command_fails_with_the_reason(FakeRobot, tmp_path, capsys):
    robot, out = FakeRobot(), tmp_path / "calibration.json"
    file.save(out, "another", {})
    before = out.read_text()
    clock = {"wait_until": robot.wait_until, "now_ns": robot.now_ns}
    assert commands.latency(robot, 4.0, 50.0, 0, out, None, **clock) == 1
    assert "belongs to robot 'another', not 'fake'" in capsys.readouterr().err
    assert out.read_text() == before
