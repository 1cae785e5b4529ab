"""A robot whose units are not the policy's is refused, and no first target is a jump."""

import dataclasses
import math

import numpy as np
import pytest
from support.driving import Scripted, drive, with_rate

from policy_server.contract.field import Field
from policy_server.control.loop import ControlConfig
from policy_server.control.robot_io import RobotError
from policy_server.control.start_check import check_start

UNIT_LIMITS = {"rad": (-1.6, 1.6), "deg": (-90.0, 90.0), "m": (0.0, 0.1), "1": (0.0, 1.0)}


@pytest.fixture
def manifest(bundle_path):
    """Limits of +-0.9 rad, 5 rad/s."""
    return with_rate(bundle_path, 5.0)


@pytest.fixture
def robot(tiny):
    return tiny.Robot()


def near(call, obs):
    return [[0.3, 0.3]] * 2


def check(value, unit="rad", tolerance=0.1):
    low, high = UNIT_LIMITS[unit]
    fields = (
        Field("arm", 0, 1, unit, low=(low,), high=(high,)),
        Field("free", 1, 2, "N", low=(-math.inf,), high=(math.inf,)),
    )
    check_start("position", fields, ["elbow", "free"], np.array([value, 1e9]), tolerance)


@pytest.mark.parametrize(
    ("value", "unit", "hint"),
    [
        (85.0, "rad", "degrees"),
        (-91.0, "rad", "degrees"),
        (57.0, "m", "millimetres"),
        (63.0, "1", "percent"),
        (1e6, "rad", None),
        (400.0, "deg", None),
    ],
)
def test_far_outside_both_numbers_are_said_and_the_unit_that_fits(value, unit, hint):
    with pytest.raises(RobotError, match="so nothing was sent") as caught:
        check(value, unit)
    low, high = UNIT_LIMITS[unit]
    said = str(caught.value)
    assert f"elbow is {value:.6g}, expected {low:.6g} to {high:.6g}" in said
    assert "free" not in said
    assert ("does the robot speak" in said) == (hint is not None)
    assert hint is None or f"does the robot speak {hint}?" in said


@pytest.mark.parametrize("value", [0.0, 1.6, -1.6, 1.91, -1.91])
def test_a_tenth_of_the_range_outside_is_near_enough(value):
    check(value)
    with pytest.raises(RobotError):
        check(math.copysign(abs(value) + 2.0, value or 1.0))


def test_limits_without_a_range_are_measured_by_their_size():
    check_start("x", (Field("x", 0, 1, "m", (0.3,), (0.3,)),), ["x"], np.array([0.35]), 0.1)
    half = (Field("x", 0, 1, "m", (0.0,), (math.inf,)),)
    check_start("x", half, ["x"], np.array([1e9]), 0.1)
    with pytest.raises(RobotError, match="x is -5, expected 0 to inf m"):
        check_start("x", half, ["x"], np.array([-5.0]), 0.1)


@pytest.mark.parametrize("joint", ["a.pos", "b.pos"])
def test_one_joint_in_degrees_is_refused_before_anything_is_sent(robot, manifest, joint):
    robot.target[joint] = 85.0
    with pytest.raises(RobotError, match=f"{joint} is 85, expected -0.9 to 0.9 rad"):
        drive(robot, Scripted(manifest, near), 100)
    assert robot.sent == [] and robot.events == ["connect", "disconnect"]


def test_a_tolerance_lets_the_robot_be_led_back(robot, manifest):
    robot.target["a.pos"] = 1.5
    with pytest.raises(RobotError, match=r"start_tolerance \(now 0.1 of the range\)"):
        drive(robot, Scripted(manifest, near), 10)
    report = drive(robot, Scripted(manifest, near), 10, start_tolerance=math.inf)
    assert report.error is None
    np.testing.assert_allclose([x for x, _ in robot.sent[:3]], [1.45, 1.4, 1.35], atol=1e-6)


def test_a_reading_far_outside_its_limits_is_refused_too(robot, manifest):
    """The policy's obs has b.pos in +-1 and the button in 0 to 0.02 m."""
    robot.position = lambda: np.zeros(2)
    robot.get_observation = lambda: {"a.pos": 1e6, "b.pos": 45.0, "button": 0.01}
    with pytest.raises(RobotError, match=r"obs b.pos is 45, expected -1 to 1 rad .*degrees"):
        drive(robot, Scripted(manifest, near), 10)
    assert robot.sent == []
    robot.get_observation = lambda: {"a.pos": 1e6, "b.pos": 2.9, "button": 0.039}
    assert drive(robot, Scripted(manifest, near), 10).error is None


def test_a_start_action_is_checked_as_a_position_is(robot, manifest):
    with pytest.raises(RobotError, match=r"start_action b[.]pos is 85"):
        drive(robot, Scripted(manifest, near), 10, start_action=(0.0, 85.0))
    with pytest.raises(RobotError, match=r"start_action has shape \(3,\), expected a number"):
        drive(robot, Scripted(manifest, near), 10, start_action=(0.0, 0.0, 0.0))


def test_a_later_episode_outside_the_limits_ends_the_run_with_its_report(robot, manifest):
    def reset_episode(seed):
        robot.target["a.pos"] = 85.0 if seed == 1 else 0.0

    robot.reset_episode = reset_episode
    report = drive(robot, Scripted(manifest, near), 20, episode_ticks=10)
    assert report.ticks == 10 and "position a.pos is 85" in report.error
    assert len(robot.sent) == 10  # the first episode's last target would be a jump here


@pytest.mark.parametrize("max_rate", [None, math.inf, 1e9, 180.0])
@pytest.mark.parametrize("limit", [0.9, math.inf])
def test_without_a_rate_no_first_target_is_a_jump(robot, bundle_path, max_rate, limit):
    """Rates that let the whole range pass in a tick limit nothing, at any limits."""
    manifest = with_rate(bundle_path, max_rate)
    (field,) = manifest.action
    field = dataclasses.replace(field, low=(-limit,) * 2, high=(limit,) * 2)
    manifest = dataclasses.replace(manifest, action=(field,))
    report = drive(robot, Scripted(manifest, lambda call, obs: [[0.9, -0.9]] * 2), 200)
    sent = np.array([[0.2, -0.1], *robot.sent])
    if limit == 0.9 or max_rate in (None, math.inf):  # any other rate without limits is a limit
        assert np.abs(np.diff(sent, axis=0)).max() < 0.0081
        assert report.interventions["velocity"] == 99
    np.testing.assert_allclose(sent[-1], [0.9, -0.9], atol=1e-6)
    assert report.error is None


def test_a_policy_without_any_limit_is_held_back_at_first(robot, bundle_path):
    """It wants 1e6 at once: the first of 100 steps is 1e4, not 1e6. Only limits can do better."""
    manifest = with_rate(bundle_path, None)
    (field,) = manifest.action
    free = dataclasses.replace(field, low=(-math.inf,) * 2, high=(math.inf,) * 2)
    manifest = dataclasses.replace(manifest, action=(free,))
    drive(robot, Scripted(manifest, lambda call, obs: [[1e6, 0.0]] * 2), 1)
    assert robot.sent[0][0] == pytest.approx(1e4, rel=1e-3)


def test_a_slow_loop_takes_ten_steps(robot, bundle_path):
    manifest = with_rate(bundle_path, None)
    policy = Scripted(manifest, lambda call, obs: [[0.9, -0.1]] * 2)
    drive(robot, policy, 12, control_period_s=1.0, max_silence_s=5.0)
    np.testing.assert_allclose([x for x, _ in robot.sent[:2]], [0.27, 0.34], atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [{"start_tolerance": -1.0}, {"start_tolerance": math.nan}, {"start_action": (0.0, math.nan)}],
)
def test_senseless_starts_are_refused(values):
    with pytest.raises(ValueError, match="expected"):
        ControlConfig(n_ticks=1, **values)
