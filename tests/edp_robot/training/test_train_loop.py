"""Killed trainings resume, and end where a run in peace does."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.own_folder import edp
from support.tiny import tiny_pretrain
from support.trained import checkpoint, differing, stop_after

from edp_robot.training.pretrain import pretrain
from edp_robot.training.runs import read_metrics

LONG = """
import sys
sys.path.insert(0, sys.argv[2])
from dataclasses import replace
from support.tiny import tiny_pretrain
from edp_robot.training import train_loop
from edp_robot.training.pretrain import pretrain

save = train_loop.Loop.save
train_loop.Loop.save = lambda self: (save(self), print("saved", flush=True))
config = tiny_pretrain()
loop = replace(config.loop, env_steps=10**7, checkpoint_every_s=0.2)
pretrain(replace(config, loop=loop), sys.argv[1])
"""


def test_killed_training_resumes(tmp_path):
    """kill -9 in the middle of a real process; the next one goes on from the last checkpoint."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", LONG, str(run), str(Path(__file__).parents[2])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert [child.stdout.readline().strip() for _ in range(2)] == ["saved", "saved"]
    finally:
        child.kill()
        child.wait()
    saved = checkpoint(run)["progress"]["env_step"]
    config = tiny_pretrain()
    config = replace(config, loop=replace(config.loop, env_steps=10**7, checkpoint_every_s=0.2))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 3)
        pretrain(config, str(run), resume=True)
    assert checkpoint(run)["progress"]["env_step"] == saved + 3 * 80


def test_a_killed_maze_run_ends_on_the_same_curve(tmp_path):
    """After kill -9, `edp pretrain --resume` ends bit for bit where a whole run does."""
    command = ["pretrain", "--task", "maze-square-large", "--preset", "smoke", "--n-seeds", "2"]
    command += ["--env-steps", "3200", "--set", "loop.random_env_steps=1600", "loop.n_logs=20"]
    command += ["loop.checkpoint_every_s=0.1", "--out"]
    cut = tmp_path / "cut"
    whole = tmp_path / "whole"
    process = [sys.executable, "-m", "edp_robot.cli", *command, str(cut)]
    child = subprocess.Popen(process, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = cut / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not saved.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert 0 < checkpoint(cut)["progress"]["env_step"] < 3_200
    edp(tmp_path, *command, cut, "--resume")
    edp(tmp_path, *command, whole)
    assert differing(cut, whole) == []
    for name in ("coverage/0", "coverage/1"):
        resumed = read_metrics(cut, name)
        expected = read_metrics(whole, name)
        assert len(expected[0]) >= 20
        assert np.array_equal(resumed, expected)
