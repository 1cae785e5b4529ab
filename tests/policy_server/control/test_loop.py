import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from support.driving import PERIOD_NS, Scripted, drive, still, unhindered
from support.fake_clock import FakeClock

from policy_server.contract.bundle import Bundle
from policy_server.contract.clock import RealtimeError
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.wire import Status
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.control.loop import ControlConfig, run
from policy_server.control.robot_io import RobotError


@pytest.fixture
def manifest(bundle_path):
    """Rates above all changes in these tests, so that targets pass as they are."""
    return unhindered(bundle_path)


def test_the_schedule_does_not_drift(tiny, manifest):
    """Every sleep is 0.15 ms too long, every tick works 3 ms: tick 499 starts on the grid."""
    fake = FakeClock(oversleep_s=150e-6)
    begins = []

    def on_tick(tick, obs, target):
        begins.append(fake.t_ns)
        fake.t_ns += 3_000_000

    report = drive(tiny.Robot(), Scripted(manifest, still), 500, fake, on_tick)
    assert (report.ticks, report.missed_deadlines, report.skipped) == (500, 0, 0)
    assert report.error is None
    assert abs(begins[-1] - begins[0] - 499 * PERIOD_NS) < 10_000
    assert report.late_ns.max() < 10_000 and len(report.period_ns) == 499
    assert abs(report.period_ns - PERIOD_NS).max() < 10_000


def test_a_late_tick_is_counted_and_shifts_nothing(tiny, manifest):
    """Tick 3 takes 1.3 periods: tick 4 begins 0.3 late, tick 5 on time. Nothing is skipped."""
    fake = FakeClock()

    def on_tick(tick, obs, target):
        fake.t_ns += 13_000_000 if tick == 3 else 1_000_000

    report = drive(tiny.Robot(), Scripted(manifest, still), 8, fake, on_tick)
    assert (report.ticks, report.missed_deadlines, report.skipped) == (8, 1, 0)
    np.testing.assert_allclose(report.late_ns / 1e6, [0, 0, 0, 0, 3, 0, 0, 0], atol=0.02)
    np.testing.assert_allclose(report.period_ns / 1e6, [10, 10, 10, 13, 7, 10, 10], atol=0.02)
    np.testing.assert_allclose(report.jitter_us, [0, 0, 0, 3000, 3000, 0, 0], atol=20)


def test_ticks_that_passed_are_skipped_and_the_chunk_goes_on_with_time(tiny, manifest):
    """Tick 0 takes 2.5 periods: tick 1 is skipped, tick 2 takes the chunk's third action."""
    manifest = dataclasses.replace(manifest, horizon=6, n_action_steps=6)
    fake = FakeClock()
    robot = tiny.Robot()

    def on_tick(tick, obs, target):
        fake.t_ns += 25_000_000 if tick == 0 else 0

    policy = Scripted(manifest, lambda call, obs: [[0.1 * i, 0] for i in range(6)])
    report = drive(robot, policy, 6, fake, on_tick)
    assert (report.ticks, report.missed_deadlines, report.skipped, policy.calls) == (5, 1, 1, 1)
    sent = [target[0] for target in robot.sent[:-1]]
    np.testing.assert_allclose(sent, [0, 0.2, 0.3, 0.4, 0.5], atol=1e-6)


def test_the_policy_is_asked_every_n_action_steps(tiny, manifest):
    manifest = dataclasses.replace(manifest, horizon=6, n_action_steps=3)
    robot = tiny.Robot()
    policy = Scripted(manifest, lambda call, obs: [[0.1 * call, 0.01 * i] for i in range(6)])
    report = drive(robot, policy, 7)
    assert policy.calls == 3 and len(report.act_ns) == 3
    assert policy.deadlines == [pytest.approx(0.008)] * 3
    chunks = [[0.1, 0], [0.1, 0.01], [0.1, 0.02], [0.2, 0], [0.2, 0.01], [0.2, 0.02], [0.3, 0]]
    expected = [*chunks, [0.3, 0]]  # the last safe target is sent once more
    np.testing.assert_allclose(robot.sent, expected, atol=1e-6)
    assert robot.events == ["connect", "disconnect"]


def test_short_silence_is_held_through(tiny, manifest):
    robot = tiny.Robot()
    timeout = PolicyTimeout("no reply")
    policy = Scripted(
        manifest, lambda call, obs: timeout if 3 <= call <= 6 else [[0.1 * call, 0]] * 2
    )
    report = drive(robot, policy, 8)
    assert (report.n_holds, report.error, report.ticks) == (4, None, 8)
    np.testing.assert_allclose(
        [x for x, _ in robot.sent], [0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.7, 0.8, 0.8], atol=1e-6
    )


def test_an_answer_ends_a_silence(tiny, manifest):
    """Holds of 0.15 s, each shorter than the limit of 0.2 s, with one answer between them."""
    policy = Scripted(
        manifest, lambda call, obs: still(0, 0) if call % 16 == 0 else PolicyTimeout("no reply")
    )
    report = drive(tiny.Robot(), policy, 64)
    assert (report.error, report.n_holds, report.ticks) == (None, 60, 64)


@pytest.mark.parametrize("max_silence_s", [0.05, 0.2])
def test_long_silence_ends_the_run_within_its_limit(tiny, manifest, max_silence_s):
    fake = FakeClock()
    robot = tiny.Robot()

    def script(call, obs):
        if call <= 3:
            return [[0.1 * call, 0]] * 2
        if call == 4:
            silent.append(fake.t_ns)
        fake.t_ns += 8_000_000
        return PolicyTimeout("no reply from nowhere")

    silent = []
    report = drive(robot, Scripted(manifest, script), 1000, fake, max_silence_s=max_silence_s)
    assert max_silence_s - 0.021 < (fake.t_ns - silent[0]) * 1e-9 <= max_silence_s
    assert "no reply from nowhere" in report.error and "no usable action" in report.error
    assert report.n_holds == report.ticks - 3 > 2
    np.testing.assert_allclose(robot.sent[2:], [[0.3, 0]] * (report.n_holds + 2), atol=1e-6)
    assert robot.events == ["connect", "disconnect"]


def test_silence_from_the_start_holds_the_robots_position(tiny, manifest):
    robot = tiny.Robot()
    report = drive(
        robot, Scripted(manifest, lambda call, obs: PolicyError(Status.INTERNAL, "broken")), 100
    )
    assert "INTERNAL: broken" in report.error
    np.testing.assert_allclose(robot.sent, [[0.2, -0.1]] * len(robot.sent), atol=1e-7)


def test_nan_actions_are_never_sent(tiny, manifest):
    robot = tiny.Robot()
    policy = Scripted(
        manifest, lambda call, obs: [[np.nan, 0.3]] * 2 if call % 2 == 0 else [[0.1 * call, 0]] * 2
    )
    report = drive(robot, policy, 4)
    assert (report.n_holds, report.interventions["not_finite"], report.error) == (2, 2, None)
    np.testing.assert_allclose([x for x, _ in robot.sent], [0.1, 0.1, 0.3, 0.3, 0.3], atol=1e-6)
    report = drive(tiny.Robot(), Scripted(manifest, lambda call, obs: [[np.nan] * 2] * 2), 100)
    assert "its actions are not finite" in report.error


def test_the_limiter_starts_at_the_robot(tiny, bundle_path):
    """Rate 5/s at 10 ms: 0.05 a tick from the robot's 0.2. Without a rate, 1 % of the way."""
    robot = tiny.Robot()
    policy = Scripted(Bundle.load(bundle_path).manifest, lambda call, obs: [[0.9, 5.0]] * 2)
    report = drive(robot, policy, 3)
    np.testing.assert_allclose(
        robot.sent[:3], [[0.25, -0.09], [0.3, -0.08], [0.35, -0.07]], atol=1e-6
    )
    assert report.interventions == {"not_finite": 0, "position": 3, "velocity": 3}


def test_a_robot_that_does_not_fit_is_refused_and_disconnected(tiny, manifest):
    robot = tiny.Robot()
    robot.action_features = {"a.pos": float}
    with pytest.raises(RobotError, match=r"action has 1 numbers .*the policy's has 2"):
        drive(robot, Scripted(manifest, still), 1)
    assert robot.sent == [] and robot.events == ["connect", "disconnect"]


def test_a_robot_without_a_known_position_needs_a_start(tiny, manifest):
    robot = tiny.Robot()
    robot.observation_features = dict.fromkeys(("x", "y", "button"), float)
    robot.get_observation = lambda: dict.fromkeys(robot.observation_features, 0.0)
    with pytest.raises(RobotError, match=r"lacks \['a.pos', 'b.pos'\]"):
        drive(robot, Scripted(manifest, still), 1)
    assert drive(robot, Scripted(manifest, still), 2, start_action=(0.0, 0.0)).error is None
    robot.position = lambda: np.zeros(2)
    assert drive(robot, Scripted(manifest, still), 2).ticks == 2


def test_the_report_names_the_fields_whose_names_could_not_be_compared(tiny, manifest):
    report = drive(tiny.Robot(), Scripted(manifest, still), 1)
    assert report.unchecked_fields == ("obs.arm", "action.arm_target")
    assert report.to_json()["unchecked_fields"] == ("obs.arm", "action.arm_target")


def test_episodes_reset_robot_and_policy_and_report_success(tiny, manifest):
    fake = FakeClock()
    robot = tiny.Robot()
    log = []

    def reset_episode(seed):
        log.append(seed)
        fake.t_ns += 700_000_000  # a reset is no missed deadline

    robot.reset_episode = reset_episode
    robot.episode_success = lambda: len(log) != 2
    policy = Scripted(manifest, still)
    report = drive(robot, policy, 25, fake, episode_ticks=10, seed=7)
    assert log == policy.seeds == [7, 8, 9]
    assert report.successes == [True, False, True]
    assert (report.ticks, report.missed_deadlines, report.skipped) == (25, 0, 0)
    assert len(report.period_ns) == 22 and abs(report.period_ns - PERIOD_NS).max() < 10_000


def test_report_is_json(tiny, manifest):
    report = drive(tiny.Robot(), Scripted(manifest, still), 20)
    result = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert result["period_jitter_us"]["n"] == 19 and result["work_us"]["n"] == result["ticks"] == 20
    assert {"p50", "p99", "max"} <= set(result["act_us"])


@pytest.mark.parametrize(
    "values",
    [
        {"n_ticks": 0},
        {"n_ticks": 1.5},
        {"n_ticks": 1, "max_silence_s": 0},
        {"n_ticks": 1, "spin_s": -1},
    ],
)
def test_senseless_configs_are_refused(values):
    with pytest.raises(ValueError, match="expected"):
        ControlConfig(**values)


def test_realtime_fails_loudly_where_refused(tiny, manifest, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(RealtimeError, match="CAP_SYS_NICE"):
        drive(tiny.Robot(), Scripted(manifest, still), 1, realtime=True)


def test_ctrl_c_ends_after_a_whole_tick(tiny, manifest):
    robot = tiny.Robot()
    before = signal.getsignal(signal.SIGINT)

    def on_tick(tick, obs, target):
        if tick == 4:
            os.kill(os.getpid(), signal.SIGINT)

    report = drive(robot, Scripted(manifest, still), 1000, on_tick=on_tick)
    assert (report.interrupted, report.error, report.ticks) == (True, None, 5)
    assert robot.events == ["connect", "disconnect"] and len(robot.sent) == 6
    assert signal.getsignal(signal.SIGINT) == before


def test_a_local_policy_drives_in_real_time(tiny, bundle_path):
    report = run(tiny.Robot(), LocalPolicy(bundle_path, "cpu"), ControlConfig(n_ticks=30, seed=3))
    assert report.error is None and report.ticks + report.skipped == 30
    assert report.late_ns.min() >= 0  # no tick starts before its time


def test_served_and_local_runs_are_the_same(tiny, bundle_path, start_server):
    served = tiny.Robot()
    local = tiny.Robot()
    with PolicyClient(start_server(bundle_path).endpoint, timeout_s=10) as client:
        config = ControlConfig(n_ticks=20, seed=3, act_deadline_s=5.0, max_silence_s=10.0)
        run(served, client, config, clock=FakeClock().clock)
    run(local, LocalPolicy(bundle_path, "cpu"), config, clock=FakeClock().clock)
    assert served.sent == local.sent and len(local.sent) == 21


def test_server_killed_during_control(tiny, bundle_path, start_server):
    """The robot holds its last safe target until the silence is too long."""
    server = start_server(bundle_path)
    robot = tiny.Robot()

    def on_tick(tick, obs, target):
        if tick == 20:
            server.process.kill()
            server.process.wait()

    config = ControlConfig(n_ticks=2000, act_deadline_s=0.05, max_silence_s=1.0)
    with PolicyClient(server.endpoint, timeout_s=10) as client:
        report = run(robot, client, config, on_tick)
    assert "no usable action from the policy" in report.error and server.endpoint in report.error
    assert report.ticks > 20 and report.n_holds >= 1
    assert robot.events[-1] == "disconnect"
    n_same = next(i for i, target in enumerate(reversed(robot.sent)) if target != robot.sent[-1])
    assert n_same > report.n_holds  # the policy's own targets all differ
