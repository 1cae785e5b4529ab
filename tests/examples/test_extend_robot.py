"""The example robot is driven from a folder outside the package, and nothing else is touched."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policy_server import ControlConfig, LocalPolicy, run
from policy_server.contract.field import Field
from policy_server.control.robot import make_robot
from policy_server.control.robot_io import RobotError

EXAMPLE = Path(__file__).parents[2] / "examples" / "extend" / "my_robot.py"
JOINTS = ("shoulder.pos", "elbow.pos")


def fields(joints=JOINTS):
    """The example's fields, with these names for the two joints."""
    limits = {"low": (-1.0, -1.0), "high": (1.0, 1.0)}
    obs = (
        Field("joint_pos", 0, 2, "rad", **limits, entries=joints),
        Field("supply_v", 2, 3, "V", low=(0.0,), high=(24.0,)),
    )
    rates = (2.0, 2.0)
    action = (Field("joint_target", 0, 2, "rad", **limits, max_rate=rates, entries=joints),)
    return {"obs": obs, "action": action}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder that holds a copy of the example; the current folder."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_robot", None)


def edp(*arguments):
    command = [sys.executable, "-m", "edp_robot.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_line_drives_it(folder, tiny):
    bundle = tiny.save(folder / "bundle", **fields()).path
    robot = "my_robot:MyRobot?port=/dev/ttyUSB0&lag_s=0.05"
    said = edp("control", "--bundle", bundle, "--robot", robot, "--seconds", 1, "--json", "r.json")
    assert said.returncode == 0, said.stderr
    report = json.loads((folder / "r.json").read_text())
    assert report["error"] is None and report["ticks"] + report["skipped"] == 100
    assert report["unchecked_fields"] == []


def test_a_wrong_option_is_one_line(folder, tiny):
    bundle = tiny.save(folder / "bundle", **fields()).path
    said = edp("control", "--bundle", bundle, "--robot", "my_robot:MyRobot?baud=9600")
    assert said.returncode == 1 and said.stderr.count("\n") == 1
    assert "no option 'baud'; the options are port (str), lag_s (float)" in said.stderr


def test_radians_become_degrees_on_the_wire(folder):
    robot = make_robot("my_robot:MyRobot?lag_s=0.001")
    robot.connect()
    robot.send_action({"shoulder.pos": math.pi / 2, "elbow.pos": -math.pi / 6})
    np.testing.assert_allclose(robot.servos.targets_deg, [90, -30])
    robot.send_action({"shoulder.pos": math.pi, "elbow.pos": 0.0})
    np.testing.assert_allclose(robot.servos.targets_deg, [120, 0])


def test_the_limiter_bounds_its_first_motion(folder, tiny):
    """At 2 rad/s and 100 Hz the first target is at most 0.02 rad from where the robot is."""
    policy = LocalPolicy(tiny.save(folder / "bundle", **fields()).path, "cpu")
    robot = make_robot("my_robot:MyRobot")
    targets = []
    run(robot, policy, ControlConfig(n_ticks=5), lambda tick, obs, target: targets.append(target))
    assert np.abs(targets[0]).max() <= 0.02 + 1e-9
    assert np.abs(np.diff(targets, axis=0)).max() <= 0.02 + 1e-9
    assert not robot.is_connected


def test_a_policy_with_the_joints_in_another_order_is_refused(folder, tiny):
    bundle = tiny.save(folder / "bundle", **fields(joints=JOINTS[::-1])).path
    robot = make_robot("my_robot:MyRobot")
    with pytest.raises(RobotError, match=r"'shoulder.pos' instead of 'elbow.pos'"):
        run(robot, LocalPolicy(bundle, "cpu"), ControlConfig(n_ticks=1))


def test_the_door_is_one_short_file(folder):
    assert len(EXAMPLE.read_text().splitlines()) < 100
