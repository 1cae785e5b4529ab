import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from policy_server.control.robot import make_robot
from policy_server.control.robot_io import RobotIO
from sim.core.registry import make_task, task_spec
from sim.robots.robot_process import RobotCore
from sim.robots.sim_robot import SimRobot, SimRobotError
from sim.tasks import arm

ABOVE = np.array([-0.524, -1.2, -1.55, 0.8, 0.0, 0.1])  # leaning back, forearm over the button
DOWN = ABOVE - np.array([0, 0.55, 0, 0, 0, 0])


@pytest.fixture
def connect():
    robots = []

    def connected(*args, **kwargs):
        robots.append(SimRobot(*args, **kwargs))
        robots[-1].connect()
        return robots[-1]

    yield connected
    for robot in robots:
        robot.disconnect()


def read(robot):
    obs = np.empty(22, np.float32)
    robot.read_obs(obs)
    return obs


def wait(done, timeout_s=8.0):
    until = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def settle(core, target, n_steps=1000):
    """Steps `core` under `target`; returns the observation."""
    core.receive(np.asarray(target, float), 0)
    for k in range(n_steps):
        core.step(10**12 + k * 2_000_000)
    return core.obs()


def test_the_arm_reaches_a_commanded_pose_and_stays(connect):
    robot = connect("arm")
    core = RobotCore(make_task("arm"))
    names = list(robot.observation_features)
    target = read(robot)[12:18] + np.array([0.5, 0.3, -0.3, 0.2, -0.4, 0.2])
    sent = robot.send_action(dict(zip(robot.action_features, target.tolist(), strict=True)))
    expected = settle(core, target)
    wait(
        lambda: (
            np.abs(read(robot)[:6] - expected[:6]).max() < 1e-3
            and np.abs(read(robot)[6:12]).max() < 1e-2
        )
    )
    obs = robot.get_observation()
    assert list(obs) == names and all(type(value) is float for value in obs.values())
    np.testing.assert_allclose(list(obs.values()), expected, atol=2e-3)
    np.testing.assert_allclose(list(sent.values()), target)
    assert np.abs(expected[:6] - target).max() < 0.1
    time.sleep(0.3)
    np.testing.assert_allclose(read(robot), expected, atol=2e-3)  # nothing was sent meanwhile


def test_names_are_those_of_policy_and_calibration(connect):
    robot = connect("arm-press")
    spec = task_spec("arm-press")
    assert list(robot.observation_features)[::6] == [
        "shoulder_pan.pos", "shoulder_pan.vel", "shoulder_pan.command", "end_effector.x",
    ]  # fmt: skip
    assert list(robot.observation_features)[18:] == [
        "end_effector.x",
        "end_effector.y",
        "end_effector.z",
        "button.travel",
    ]
    fast = RobotIO(
        robot, SimpleNamespace(obs=spec.obs, action=spec.action)
    )  # refuses what does not fit
    names_only = SimpleNamespace(**{k: getattr(robot, k) for k in (
        "observation_features", "action_features", "get_observation", "send_action", "position"
    )})  # fmt: skip
    by_name = RobotIO(names_only, SimpleNamespace(obs=spec.obs, action=spec.action))
    np.testing.assert_allclose(fast.position(), read(robot)[12:18], atol=1e-6)
    target = 0.9 * fast.position()  # towards the middle: inside the limits from any pose
    for io in (fast, by_name):
        target = 0.95 * target
        io.write(target)
        np.testing.assert_allclose(io.read()[12:18], target, atol=1e-6)
        np.testing.assert_allclose(io.position(), target)
    assert robot.is_calibrated and robot.calibrate() is None


def test_time_runs_on_schedule(connect):
    robot = connect("arm")
    first = robot.stats()
    began = time.monotonic()
    time.sleep(1.0)
    wall_s = time.monotonic() - began
    steps = robot.stats()["n_steps"] - first["n_steps"]
    assert abs(steps * 0.002 - wall_s) < 0.1


def test_a_late_process_says_so_and_then_catches_up(connect):
    robot = connect("arm")
    before = robot._reading()
    os.kill(robot._process.pid, signal.SIGSTOP)
    time.sleep(0.4)
    with pytest.raises(
        SimRobotError, match=r"0\.\d+ s old, the limit is 0.2 s: process \d+ is stopped"
    ):
        robot.get_observation()
    os.kill(robot._process.pid, signal.SIGCONT)

    def fresh():
        try:
            return robot._reading()["n_steps"] > before["n_steps"] + 200
        except SimRobotError:
            return False

    wait(fresh)
    after = robot._reading()
    n_steps = after["n_steps"] - before["n_steps"]
    assert (
        after["stamp_ns"] - before["stamp_ns"] == n_steps * 2_000_000
    )  # no step was left out or shifted
    assert after["n_overruns"] - before["n_overruns"] >= 150 and after["max_late_ns"] > 0.3e9


def test_the_delay_delays(connect):
    took = {}
    for delay_s in (0.0, 0.05):
        robot = connect("arm", delay_s=delay_s)
        times = []
        for shift in (0.4, -0.4, 0.4):  # the best of three: others may be using the machine
            wait(
                lambda r=robot: (
                    abs(read(r)[0] - r.position()[0]) < 0.005 and abs(read(r)[6]) < 0.005
                )
            )
            target = robot.position()
            target[0] += shift
            sent = time.monotonic()
            robot.write_action(target)
            np.testing.assert_allclose(read(robot)[12:18], target, atol=1e-6)  # accepted already
            wait(lambda r=robot: abs(read(r)[6]) > 0.1)
            times.append(time.monotonic() - sent)
        took[delay_s] = min(times)
    assert 0.04 < took[0.05] - took[0.0] < 0.08, took


def test_reset_puts_the_arm_where_the_seed_says_and_drops_targets_on_the_way(connect):
    robot = connect("arm", delay_s=0.05)
    core = RobotCore(make_task("arm"))
    for seed in (3, 11, 3):
        robot.write_action(robot.position() + 0.5)
        robot.reset_episode(seed)
        obs = read(robot)
        core.start_episode(seed)
        pose = core.obs()
        np.testing.assert_allclose(obs[12:18], pose[12:18], atol=1e-6)
        assert np.abs(obs[:6] - pose[:6]).max() < 0.1  # it sags a little if we look late
        time.sleep(0.15)
        np.testing.assert_array_equal(read(robot)[12:18], obs[12:18])
        assert np.abs(read(robot)[:6] - pose[:6]).max() < 0.1
    assert np.abs(pose[:6] - arm.REST_POSE).max() > 0.3


def test_a_press_counts_for_its_episode_only(connect):
    robot = connect("arm-press")
    robot.reset_episode(0)
    assert robot.episode_success() is False
    robot.write_action(ABOVE)
    wait(lambda: np.abs(read(robot)[:6] - ABOVE).max() < 0.1)
    robot.write_action(DOWN)
    wait(robot.episode_success)
    robot.write_action(ABOVE)
    wait(lambda: read(robot)[21] < 0.001)
    assert robot.episode_success() is True
    robot.reset_episode(1)
    assert robot.episode_success() is False


def test_targets_are_clipped_to_the_joints(connect):
    robot = connect("arm")
    low, high = arm.joint_range()
    sent = robot.send_action(dict.fromkeys(robot.action_features, 9.0))
    np.testing.assert_array_equal(list(sent.values()), high)
    robot.write_action(np.full(6, -9.0))
    np.testing.assert_array_equal(robot.position(), low)


def test_bad_actions_are_refused_and_nothing_is_sent(connect):
    robot = connect("arm")
    before = robot.position()
    good = dict.fromkeys(robot.action_features, 0.0)
    for bad in (
        np.full(6, np.nan),
        np.array([0, 0, 0, 0, 0, np.inf]),
        np.zeros(5),
        np.zeros((1, 6)),
    ):
        with pytest.raises(ValueError, match="6 finite numbers"):
            robot.write_action(bad)
    with pytest.raises(ValueError, match="nothing was sent"):
        robot.send_action(good | {"gripper.target": float("nan")})
    with pytest.raises(
        ValueError, match=r"lacks \['gripper.target'\] and has unknown \['gripper.pos'\]"
    ):
        robot.send_action({n.replace("gripper.target", "gripper.pos"): v for n, v in good.items()})
    for seed in (-1, 1.5, 2**63, None):
        with pytest.raises(ValueError, match="seed"):
            robot.reset_episode(seed)
    np.testing.assert_array_equal(robot.position(), before)


def test_a_killed_process_is_an_error_not_old_data(connect):
    robot = connect("arm")
    os.kill(robot._process.pid, signal.SIGKILL)
    wait(lambda: robot._process.poll() is not None, 2.0)
    for call in (
        robot.get_observation,
        lambda: robot.write_action(np.zeros(6)),
        lambda: robot.reset_episode(0),
    ):
        with pytest.raises(SimRobotError, match=r"gone \(killed by signal 9\); disconnect"):
            call()
    robot.disconnect()
    robot.connect()
    assert len(robot.get_observation()) == 22


def test_disconnect_leaves_no_process_and_no_file(connect):
    robot = connect("arm")
    pid = robot._process.pid
    with open(f"/proc/{pid}/maps") as maps:
        shared = [line for line in maps if "sim_robot_" in line]
    assert shared and all(line.rstrip().endswith("(deleted)") for line in shared)
    assert robot.is_connected and running(pid)
    with pytest.raises(SimRobotError, match="connected already"):
        robot.connect()
    robot.disconnect()
    assert not robot.is_connected and not running(pid)
    robot.disconnect()
    with pytest.raises(SimRobotError, match="not connected; call connect"):
        robot.get_observation()


def test_the_process_dies_with_its_parent():
    code = (
        "import os, time; from sim import SimRobot\n"
        "r = SimRobot('arm'); r.connect()\n"
        "if os.fork() == 0: time.sleep(6); os._exit(0)  # a sibling that keeps the pipe open\n"
        "print(r._process.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert running(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait(lambda: not running(pid), 3.0)


def test_a_process_that_cannot_start_is_reported(monkeypatch, capfd):
    robot = SimRobot("arm")
    robot.task = "nonsense"
    with pytest.raises(SimRobotError, match=r"gone \(exit status 1\)"):
        robot.connect()
    assert not robot.is_connected and "no task 'nonsense'" in capfd.readouterr().err


def test_make_reads_task_and_options():
    robot = make_robot("sim:arm-press?delay_s=0.03&seed=5")
    assert (robot.task, robot.delay_s, robot._seed) == ("arm-press", 0.03, 5)
    assert make_robot("sim:arm").delay_s == 0.0


def test_a_robot_passes_options_on_to_its_task(tmp_path, monkeypatch):
    (tmp_path / "arm_of_the_test.py").write_text(
        "from sim.tasks.arm import ArmTask\n\n\n"
        "class Slow(ArmTask):\n"
        "    def __init__(self, period_s: float = 0.01):\n"
        "        self.control_period_s = period_s\n"
        "        super().__init__()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    robot = make_robot("sim:arm_of_the_test:Slow?period_s=0.02&delay_s=0.03")
    assert robot.task == "arm_of_the_test:Slow?period_s=0.02"
    assert (robot.delay_s, robot._world.spec.control_period_s) == (0.03, 0.02)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("arm-pres", "Did you mean 'arm-press'.*There are: .*arm, arm-press"),
        ("", "no task ''. There are: .*arm"),
        ("maze-square-a", "no simulated robot; there are: .*arm, .*package.module:Task"),
        ("arm?speed=3", "no option 'speed'.*delay_s .*seed"),
        ("arm?delay_s=fast", "delay_s='fast': expected float"),
        ("arm?delay_s=nan", "delay_s nan"),
        ("arm?delay_s=-1", r"delay_s -1.0: expected a time in \[0, 10\]"),
        ("arm?seed=-1", "seed -1"),
        ("arm?delay_s", "expected option=value"),
    ],
)
def test_make_refuses_and_says_what_there_is(spec, message):
    with pytest.raises(ValueError, match=message):
        make_robot(f"sim:{spec}")
