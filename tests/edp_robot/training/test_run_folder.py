"""A run folder has one writer, survives kills and full disks, and says what is wrong with it."""

import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from support.tiny import tiny_pretrain
from support.trained import checkpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edp_robot.cli import main
from edp_robot.config import presets
from edp_robot.training.clone import clone
from edp_robot.training.pretrain import pretrain
from edp_robot.training.runs import Run, RunRecord, read_config, read_metrics, with_held_length
from policy_server.contract.disk.files import DiskFull

HOLDER = """
import sys
from edp_robot.training.runs import Run
from edp_robot.training.clone import CloneConfig
run = Run(sys.argv[1], CloneConfig(), resume=True)
print("held", flush=True)
sys.stdin.read()
"""


def tiny_clone(**changes):
    small = {"n_chunks": 2, "grad_steps_per_chunk": 1, "n_pairs": 40, "batch": 8}
    return replace(presets.clone("smoke", "modes"), **{**small, **changes})


def tagged(folder, name):
    """Returns the steps that TensorBoard shows of a metric."""
    events = EventAccumulator(str(folder), purge_orphaned_data=True).Reload()
    return [event.step for event in events.Scalars(name)]


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="written by another process"):
            clone(tiny_clone(), str(tmp_path), resume=True)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
    assert (tmp_path / ".lock").exists()
    clone(replace(tiny_clone(), n_chunks=1), str(tmp_path / "other"))
    with pytest.raises(ValueError, match="another config"):  # it is free: the config is compared
        clone(tiny_clone(), str(tmp_path), resume=True)


def test_a_closed_run_and_a_failed_one_are_free(tmp_path):
    first = Run(tmp_path, tiny_clone())
    with pytest.raises(BlockingIOError):
        Run(tmp_path, tiny_clone(), resume=True)
    first.close()
    with pytest.raises(ValueError, match="batch=8 there, 9 asked"):
        Run(tmp_path, tiny_clone(batch=9), resume=True)
    Run(tmp_path, tiny_clone(), resume=True).close()


def test_orphans_of_killed_saves_are_swept(tmp_path):
    (tmp_path / ".checkpoint.safetensors.12.tmp").write_text("old name")
    (tmp_path / ".config.json.elsewhere@12.tmp").write_text("new name")
    (tmp_path / ".mine.tmp").write_text("not ours")
    Run(tmp_path, tiny_clone()).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".mine.tmp", "config.json"]


def test_more_env_steps_go_on_and_fewer_are_done(tmp_path, capsys):
    config = tiny_pretrain(method="random")
    short = replace(config, loop=replace(config.loop, env_steps=800, n_logs=4))
    long = replace(short, loop=replace(short.loop, env_steps=1_600))
    pretrain(short, str(tmp_path))
    assert pretrain(long, str(tmp_path), resume=True).env_step == 1_600
    assert RunRecord.load(tmp_path).config == long
    assert with_held_length(short, tmp_path) == long
    assert pretrain(short, str(tmp_path), resume=True).env_step == 1_600
    assert "is done: it has 1600 env_steps" in capsys.readouterr().out
    assert RunRecord.load(tmp_path).config == long
    steps, _ = read_metrics(tmp_path, "grad_steps")
    assert steps.tolist() == sorted(set(steps.tolist()))  # the last step is logged once


def test_a_longer_clone_goes_on(tmp_path, capsys):
    clone(tiny_clone(), str(tmp_path))
    clone(tiny_clone(n_chunks=3), str(tmp_path), resume=True)
    assert checkpoint(tmp_path)["n_chunks"] == 3
    clone(tiny_clone(), str(tmp_path), resume=True)
    assert "is done: it has 3 n_chunks" in capsys.readouterr().out
    assert read_metrics(tmp_path, "denoising_loss")[0].tolist() == [0, 1, 2]


def test_other_options_are_named_with_both_values(tmp_path):
    Run(tmp_path, tiny_pretrain()).close()
    asked = replace(tiny_pretrain(seed=3), batch=64)
    with pytest.raises(ValueError, match="seed=0 there, 3 asked; batch=32 there, 64 asked"):
        Run(tmp_path, asked, resume=True)
    with pytest.raises(ValueError, match="kind=PretrainConfig there, CloneConfig asked"):
        Run(tmp_path, tiny_clone(), resume=True)


def test_a_setting_that_is_younger_than_the_run_counts_as_its_default(tmp_path):
    Run(tmp_path, tiny_pretrain()).close()
    held = read_config(tmp_path)
    del held["config"]["loop"]["checkpoint_every_s"], held["config"]["n_seeds"]
    (tmp_path / "config.json").write_text(json.dumps(held))
    Run(tmp_path, tiny_pretrain(), resume=True).close()
    changed = replace(tiny_pretrain(), n_seeds=2)
    with pytest.raises(ValueError, match="n_seeds=1 there, 2 asked"):
        Run(tmp_path, changed, resume=True)


def test_tensorboard_shows_no_step_twice(tmp_path):
    with Run(tmp_path, tiny_clone()) as run:
        for step in (1, 2, 3):
            run.log(step, {"loss": step})
    with Run(tmp_path, tiny_clone(), resume=True) as run:
        run.truncate(1)
        run.log(2, {"loss": 9})
    assert tagged(tmp_path, "loss") == [1, 2]
    assert read_metrics(tmp_path, "loss")[1].tolist() == [1, 9]


def test_a_clone_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    with Run(tmp_path, tiny_clone()) as run:
        run.log(0, {"denoising_loss": 7.0})
    clone(tiny_clone(), str(tmp_path), resume=True)
    assert read_metrics(tmp_path, "denoising_loss")[0].tolist() == [0, 1]


def test_a_cut_last_row_is_dropped(tmp_path):
    Run(tmp_path, tiny_clone()).close()
    (tmp_path / "metrics.csv").write_text("env_step,name,value\n1,loss,0.25\n2,loss,0.1")
    assert read_metrics(tmp_path, "loss")[1].tolist() == [0.25]


def test_a_full_disk_for_metrics_is_one_line(tmp_path):
    with Run(tmp_path, tiny_clone()) as run:
        (tmp_path / "metrics.csv").symlink_to("/dev/full")
        with pytest.raises(DiskFull, match=r"No space left.*Free some space.*--resume goes on"):
            run.log(1, {"loss": 1.0})


@pytest.fixture
def small_files():
    """No file may grow beyond 4 KiB, as on a disk without space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_for_the_checkpoint_keeps_the_last_one(tmp_path, small_files):
    import torch

    with Run(tmp_path, tiny_clone()) as run:
        run.save({"a": torch.zeros(3)})
        with pytest.raises(DiskFull, match=r"File too large.*checkpoint.*--resume goes on"):
            run.save({"a": torch.zeros(10_000)})
    assert checkpoint(tmp_path)["a"].tolist() == [0, 0, 0]
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ('{"kind": "CloneConfig", "con', "Unterminated string"),
        ("[1]", "it lacks kind, config, hash"),
        ('{"kind": "CloneConfig", "hash": "a"}', "it lacks config"),
        (
            '{"kind": "PretrainConfig", "hash": "a", "config": {"method": "edp", "loop": 3}}',
            "its v",
        ),
        ('{"kind": "CloneConfig", "hash": "a", "config": 3}', "its v"),
    ],
)
def test_a_damaged_config_is_one_line(tmp_path, capsys, text, why):
    clone(tiny_clone(n_chunks=1), str(tmp_path))
    (tmp_path / "config.json").write_text(text)
    for words in (["evaluate", "--from"], ["clone", "--resume", "--out"]):
        assert main([*words, str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert f"config.json is damaged: {why}" in said or "another config" in said, said
        assert said.count("\n") == 1
    with pytest.raises(ValueError, match=why):
        RunRecord.load(tmp_path)
