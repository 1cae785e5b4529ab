import numpy as np
import pytest
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
