import os
import signal

import numpy as np
import pytest
from support.driving import failing
from support.moving_robot import QUANTUM, MovingRobot

from calibration.file import CalibrationError
from calibration.motion.robot_delay import measure, robot_name


def run(robot, seconds=6.0, hz=50.0, **kwargs):
    return measure(robot, seconds, hz, clock=robot.clock, **kwargs)


@pytest.mark.parametrize("delay_s", [0.0, 0.0305, 0.08])
def test_a_robots_injected_delay_comes_back(delay_s):
    """A reading is 2 ms older than its tick's command, which the measurement takes off."""
    result = run(MovingRobot(delay_s))
    assert result.delay_s == pytest.approx(delay_s, abs=0.0015)
    assert result.delay_low_s < result.delay_s < result.delay_high_s < result.lag_s
    assert result.n_used == 3
    assert set(result.joints) == {"pan", "lift", "roll"}
    assert result.n_late_ticks == 0


def test_the_robot_moves_little_and_returns():
    robot = MovingRobot()
    start = np.round(robot.x / QUANTUM) * QUANTUM
    run(robot, amplitude=0.05)
    sent = np.array(robot.sent)
    assert np.abs(sent - start).max() == pytest.approx(0.05, abs=1e-9)
    np.testing.assert_allclose(sent[-1], start)
    assert robot.log == ["connect", "disconnect"]


def test_a_connected_robot_stays_connected():
    robot = MovingRobot()
    robot.is_connected = True
    run(robot, 4.0)
    assert robot.log == []


def test_a_failure_sends_the_robot_back_and_disconnects():
    robot = MovingRobot(fail_at=80)
    with pytest.raises(ConnectionError, match="bus"):
        run(robot)
    assert robot.log == ["connect", "disconnect"]
    np.testing.assert_allclose(robot.sent[-1], [0.3, -0.7, 0.0], atol=0.001)


def test_lost_readings_and_commands_change_little_and_are_said():
    robot = MovingRobot()
    reads = failing(robot, "get_observation", {n: OSError("bus") for n in range(20, 300, 29)})
    failing(robot, "send_action", {n: ConnectionError("bus") for n in range(31, 300, 37)})
    result = run(robot)
    assert result.delay_s == pytest.approx(0.03, abs=0.003)
    assert "18 readings or commands of 300 ticks were lost" in result.warnings
    assert len(reads) == 301 and robot.log == ["connect", "disconnect"]


def test_a_reading_that_is_nan_or_lacks_a_joint_is_lost_too():
    robot = MovingRobot()
    true = robot.get_observation
    calls = []

    def read():
        calls.append(1)
        reading = true()
        if len(calls) == 50:
            reading["pan.pos"] = float("nan")
        if len(calls) == 70:
            del reading["roll.pos"]
        return reading

    robot.get_observation = read
    assert "2 readings or commands of 300 ticks were lost" in run(robot).warnings


def test_a_mistake_in_the_driver_ends_it_at_once_and_safely():
    robot = MovingRobot()
    calls = failing(robot, "get_observation", {40: TypeError("a bug")})
    with pytest.raises(TypeError, match="a bug"):
        run(robot)
    assert len(calls) == 40 and robot.log == ["connect", "disconnect"]


def test_a_disconnect_that_fails_leaves_the_measurement():
    robot = MovingRobot()
    failing(robot, "disconnect", {1: OSError("port gone")})
    result = run(robot)
    assert result.delay_s == pytest.approx(0.03, abs=0.0015)
    assert "disconnect() failed: OSError: port gone" in result.warnings


def test_a_connect_that_fails_half_way_is_disconnected_and_all_is_said():
    robot = MovingRobot()
    failing(robot, "connect", {1: OSError("no motor 3")})
    with pytest.raises(OSError, match="no motor 3"):
        run(robot)
    assert robot.log == ["disconnect"] and robot.sent == []
    failing(robot, "disconnect", {1: OSError("port gone")})
    failing(robot, "connect", {1: OSError("no motor 3")})
    with pytest.raises(CalibrationError, match=r"connect\(\) failed: .* 3; disconnect\(\) failed"):
        run(robot)


def test_a_signal_in_the_motion_sends_the_robot_back():
    robot = MovingRobot()
    true = robot.send_action

    def send(action):
        if len(robot.sent) == 60:
            os.kill(os.getpid(), signal.SIGHUP)
        true(action)

    robot.send_action = send
    with pytest.raises(KeyboardInterrupt):
        run(robot)
    assert len(robot.sent) == 62 and robot.log == ["connect", "disconnect"]
    np.testing.assert_allclose(robot.sent[-1], [0.3, -0.7, 0.0], atol=0.001)


@pytest.mark.parametrize(
    "bad", [{"hz": 1e9}, {"hz": 1e-9}, {"seconds": 1e9}, {"seconds": 4.0, "hz": 10.0}]
)
def test_lengths_that_no_estimate_can_use_are_refused_before_anything_moves(bad):
    robot = MovingRobot()
    with pytest.raises(CalibrationError, match="ticks: expected"):
        run(robot, **bad)
    assert robot.log == []


def test_a_stuck_joint_is_left_out_and_named():
    result = run(MovingRobot(stuck=(1,)))
    assert result.n_used == 2
    assert result.delay_s == pytest.approx(0.03, abs=0.0015)
    assert any(text.startswith("lift: measured never changes") for text in result.warnings)
    with pytest.raises(CalibrationError, match=r"no joint followed.*roll: measured never changes"):
        run(MovingRobot(stuck=(0, 1, 2)))


def test_chosen_joints_only():
    robot = MovingRobot()
    result = run(robot, joints=("roll",))
    assert set(result.joints) == {"roll"}
    assert result.delay_s == pytest.approx(0.03, abs=0.002)
    moves = np.ptp(np.array(robot.sent), axis=0) > 0
    assert moves.tolist() == [False, False, True]  # the others are held
    with pytest.raises(CalibrationError, match=r"cannot move \['wrist'\].*'lift', 'pan', 'roll'"):
        run(MovingRobot(), joints=("wrist",))


def test_late_ticks_are_reported():
    warnings = run(MovingRobot(late_s=0.008)).warnings
    assert any("ticks came late (worst 8.0 ms)" in text for text in warnings)


@pytest.mark.parametrize(
    "bad", [{"seconds": 1.0}, {"hz": 0.0}, {"amplitude": -1.0}, {"seconds": float("nan")}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(CalibrationError, match=r"expected seconds of 4\.0 or more"):
        run(MovingRobot(), **bad)


def test_a_robot_without_a_name_has_its_classs():
    class Arm(MovingRobot):
        name = "left arm"

    class Nameless:
        pass

    assert robot_name(Arm()) == "left arm"
    assert robot_name(Nameless()) == "Nameless"
