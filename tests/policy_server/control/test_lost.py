"""One lost reading or target is held over and counted; many in a row end the run."""

import dataclasses
import math
import struct

import numpy as np
import pytest
from support.driving import Scripted, drive, failing, unhindered, with_rate
from support.fake_clock import FakeClock

PASSING = [
    OSError(5, "Input/output error"),
    ConnectionError("[TxRxResult] There is no status packet!"),
    TimeoutError("bus"),
    RuntimeError("[RxPacketError] Overload error!"),
    ValueError("could not convert string to float: ''"),
    struct.error("unpack requires a buffer of 4 bytes"),
    type("CanError", (Exception,), {})("arbitration lost"),
]
MISTAKES = [TypeError("bug"), KeyError("elbw.pos"), AttributeError("x"), ZeroDivisionError("bug")]
by_type = pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)


@pytest.fixture
def manifest(bundle_path):
    return with_rate(bundle_path, 5.0)  # 0.05 a tick


@pytest.fixture
def robot(tiny):
    return tiny.Robot()


def swing(call, obs):
    """Wants one end, then the other: every target is at the limit of the rate."""
    return [[0.9, -0.9] if call % 8 < 4 else [-0.9, 0.9]] * 2


@by_type
def test_one_lost_reading_is_held_over_and_counted(robot, manifest, error):
    asked = []
    failing(robot, "get_observation", {50: error})
    seen = []
    policy = Scripted(manifest, lambda call, obs: asked.append(obs.copy()) or swing(call, obs))
    report = drive(robot, policy, 100, on_tick=lambda tick, obs, target: seen.append(obs.copy()))
    assert (report.ticks, report.error) == (100, None)
    assert (report.n_lost_reads, report.n_holds, report.n_lost_writes) == (1, 1, 0)
    said = report.to_json()
    assert (said["n_lost_reads"], said["n_lost_writes"], said["n_holds"]) == (1, 0, 1)
    assert robot.sent[48] == robot.sent[47]  # call 50 is that of tick 48: the start takes one
    assert len(asked) == 99 and np.isfinite(asked).all()
    assert [tick for tick, obs in enumerate(seen) if np.isnan(obs).any()] == [48]


@by_type
def test_one_lost_target_is_held_over_and_counted(robot, manifest, error):
    failing(robot, "send_action", {50: error})
    targets = []
    report = drive(
        robot, Scripted(manifest, swing), 100, on_tick=lambda tick, obs, t: targets.append(t)
    )
    assert (report.ticks, report.error) == (100, None)
    assert (report.n_lost_reads, report.n_holds, report.n_lost_writes) == (0, 1, 1)
    assert np.array_equal(targets[49], targets[48])  # what the robot has, not what was lost
    assert np.abs(np.diff([[0.2, -0.1], *robot.sent], axis=0)).max() < 0.05 + 1e-6


def test_the_target_after_a_lost_one_is_near_to_both(robot, manifest):
    """The lost target may have come through. From 0.25 to a lost 0.3, then back at once."""
    wanted = {1: 0.25, 2: 0.9}
    policy = Scripted(manifest, lambda call, obs: [[wanted.get(call, -0.9), -0.1]] * 2)
    tried = []
    true = robot.send_action

    def send(action):
        tried.append(action["a.pos"])
        if len(tried) == 2:
            raise OSError("no answer")
        true(action)

    robot.send_action = send
    drive(robot, policy, 4)
    np.testing.assert_allclose(tried[:4], [0.25, 0.3, 0.25, 0.2], atol=1e-6)


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        ({"a.pos": math.nan, "b.pos": 0.0, "button": 0.0}, "a.pos is nan"),
        ({"a.pos": 0.0, "b.pos": 0.0, "button": -math.inf}, "button is -inf"),
        ({"a.pos": 0.0, "button": 0.0}, r"it lacks ['b.pos']"),
        ({"a.pos": None, "b.pos": 0.0, "button": 0.0}, "not a number for each name"),
        ({"a.pos": [1.0, 2.0], "b.pos": 0.0, "button": 0.0}, "not a number for each name"),
        (None, "the robot gave a NoneType, expected a dict"),
    ],
)
def test_an_unusable_reading_is_a_lost_one(robot, manifest, reading, why):
    true = robot.get_observation
    calls = []

    def read(n_lost):
        calls.append(1)
        return reading if 5 <= len(calls) < 5 + n_lost else true()

    robot.get_observation = lambda: read(1)
    report = drive(robot, Scripted(manifest, swing), 20)
    assert (report.ticks, report.n_lost_reads, report.error) == (20, 1, None)
    calls.clear()
    robot.get_observation = lambda: read(1000)
    report = drive(robot, Scripted(manifest, swing), 100)
    assert f"last failure: reading lost: {why}" in report.error


@pytest.mark.parametrize("method", ["get_observation", "send_action"])
@pytest.mark.parametrize("max_silence_s", [0.05, 0.2])
def test_a_robot_that_stays_silent_ends_the_run_within_the_limit(
    robot, manifest, method, max_silence_s
):
    fake = FakeClock()
    silent = {number: OSError("bus lost") for number in range(10, 1000)}
    true = Scripted(manifest, swing)
    begins = []
    calls = failing(robot, method, silent)

    def on_tick(tick, obs, target):
        begins.append(fake.t_ns)

    report = drive(robot, true, 1000, fake, on_tick, max_silence_s=max_silence_s)
    what = {"get_observation": "reading from the robot", "send_action": "target that reached"}
    assert f"no {what[method]}" in report.error and "OSError: bus lost" in report.error
    n_silent = report.n_holds
    assert max_silence_s - 0.011 <= n_silent * 0.01 <= max_silence_s + 0.001
    assert len(begins) == report.ticks < 40 and len(calls) < 60
    assert robot.events == ["connect", "disconnect"]


def test_every_other_reading_lost_is_no_silence(robot, manifest):
    failing(robot, "get_observation", {n: OSError("bus") for n in range(3, 400, 2)})
    report = drive(robot, Scripted(manifest, swing), 300)
    assert (report.ticks, report.error) == (300, None)
    assert report.n_lost_reads == report.n_holds == 150


def test_silence_of_policy_and_robot_adds_up(robot, manifest):
    """Each loses every other tick, so that no tick brings a new target."""
    failing(robot, "send_action", {n: OSError("bus") for n in range(1, 400, 2)})
    failing(robot, "get_observation", {n: OSError("bus") for n in range(3, 400, 2)})
    report = drive(robot, Scripted(manifest, swing), 300)
    assert "max_silence_s 0.2" in report.error and report.ticks <= 20


@pytest.mark.parametrize("method", ["get_observation", "send_action"])
@pytest.mark.parametrize("error", MISTAKES, ids=lambda error: type(error).__name__)
def test_a_mistake_in_the_driver_ends_the_run_at_once(robot, manifest, method, error):
    failing(robot, method, {7: error})
    report = drive(robot, Scripted(manifest, swing), 100)
    assert report.ticks < 7 and f"{type(error).__name__}: {error}" in report.error
    assert report.n_holds == report.n_lost_reads == report.n_lost_writes == 0
    assert robot.events == ["connect", "disconnect"]


def test_the_first_reading_may_be_lost_too(robot, manifest):
    failing(robot, "get_observation", {1: OSError("bus"), 2: OSError("bus"), 4: OSError("bus")})
    report = drive(robot, Scripted(manifest, swing), 50)
    assert (report.ticks, report.error, report.n_lost_reads) == (50, None, 3)


def test_a_robot_that_never_says_where_it_is_is_not_moved(robot, manifest):
    failing(robot, "get_observation", {"always": OSError("bus")})
    report = drive(robot, Scripted(manifest, swing), 50)
    assert robot.sent == [] and robot.events == ["connect", "disconnect"]
    assert "no position or success from the robot for 0.2 s: reading lost: OSError" in report.error


def test_a_chunk_goes_on_with_time_after_a_lost_reading(robot, bundle_path):
    """The third of six actions is not sent; the fourth comes in its own tick."""
    manifest = dataclasses.replace(unhindered(bundle_path), horizon=6, n_action_steps=6)
    policy = Scripted(manifest, lambda call, obs: [[0.1 * i, 0] for i in range(6)])
    failing(robot, "get_observation", {4: OSError("bus")})
    report = drive(robot, policy, 6)
    assert (policy.calls, report.n_holds) == (1, 1)
    np.testing.assert_allclose([x for x, _ in robot.sent[:6]], [0, 0.1, 0.1, 0.3, 0.4, 0.5])
