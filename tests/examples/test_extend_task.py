"""The example task is trained, evaluated and driven from a folder outside the package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.own_folder import edp, edp_process

from edp_robot.training.runs import read_metrics

EXAMPLE = Path(__file__).parents[2] / "examples" / "extend" / "my_task.py"
TASK = "my_task:Cart"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with a copy of the example, a fine-tuned run and its bundle."""
    path = tmp_path_factory.mktemp("outside")
    shutil.copy(EXAMPLE, path)
    smoke = ("--task", TASK, "--preset", "smoke")
    edp_process(path, "pretrain", *smoke, "--env-steps", 4800, "--out", "cart")
    edp(path, "finetune", *smoke, "--from", "cart", "--out", "mark", "--env-steps", 2000)
    edp(path, "export", "--from", "mark", "--denoise-steps", 2, "--out", "bundle")
    return path


def test_it_is_trained_and_exported_without_touching_another_file(folder):
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    assert manifest["task"] == TASK
    names = [name for field in manifest["obs"]["fields"] for name in field["entries"]]
    assert names == ["slide.pos", "slide.vel", "slide.command"]


def test_its_coverage_is_logged(folder):
    _, shares = read_metrics(folder / "cart", "coverage")
    assert 0.2 < shares[-1] <= 1.0 and (np.diff(shares) >= 0).all()


def test_a_simulated_robot_finds_it_from_another_folder(folder, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from sim import SimRobot\n"
        f"robot = SimRobot({TASK!r}); robot.connect()\n"
        "print(sorted(robot.get_observation())); robot.disconnect()\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "slide.command" in done.stdout, done.stderr


def test_run_and_bundle_are_evaluated_alike(folder):
    returns = []
    for what in (("--from", "mark"), ("--bundle", "bundle", "--task", TASK)):
        edp(folder, "evaluate", *what, "--episodes", 20, "--json", "e.json")
        returns.append(json.loads((folder / "e.json").read_text())["mean_return"])
    assert all(0 < value < 100 for value in returns)


def test_a_simulated_robot_of_it_is_driven(folder):
    robot = f"sim:{TASK}?delay_s=0.01"
    seconds = ("--seconds", 1, "--json", "c.json")
    edp(folder, "control", "--bundle", "bundle", "--robot", robot, *seconds)
    report = json.loads((folder / "c.json").read_text())
    assert report["error"] is None and report["ticks"] + report["skipped"] == 50
    assert report["unchecked_fields"] == []


def test_the_door_is_one_short_file():
    assert len(EXAMPLE.read_text().splitlines()) < 100
