import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import tiny_pretrain
from support.trained import checkpoint, differing, stop_after

from edp_robot.config import presets
from edp_robot.methods.explore.rnd import RNDConfig
from edp_robot.training.pretrain import PretrainConfig, Pretrainer, pretrain
from edp_robot.training.runs import read_metrics
from sim.core.registry import task_spec
from sim.tasks.mazes import Maze


def with_loop(config, **changes):
    return replace(config, loop=replace(config.loop, **changes))


def test_pretraining_writes_what_it_promises(pretrained):
    held = json.loads((pretrained / "config.json").read_text())
    assert held["kind"] == "PretrainConfig"
    assert held["config"]["task"] == "arm"
    steps, coverage = read_metrics(pretrained, "coverage")
    assert steps[-1] == 3200
    assert 0 < coverage[-1] < 0.2
    assert (np.diff(coverage) >= 0).all()
    assert list(pretrained.glob("events.out.tfevents.*"))
    assert not list(pretrained.glob(".*.tmp"))


def test_resumed_pretraining_equals_uninterrupted(pretrained, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
    stop_after(monkeypatch, 20)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_pretrain(), str(cut))
    assert checkpoint(cut)["progress"]["env_step"] == 1600
    monkeypatch.undo()
    pretrain(tiny_pretrain(), str(cut), resume=True)
    assert differing(pretrained, cut) == []
    for name in ("coverage", "state_loss", "critic_loss"):
        for whole, resumed in zip(
            read_metrics(pretrained, name), read_metrics(cut, name), strict=True
        ):
            assert np.array_equal(whole, resumed)


@pytest.mark.parametrize("method", ["edp", "rnd", "particle", "random"])
def test_seeds_at_once_resume_and_come_apart(tmp_path, monkeypatch, method):
    """Three learners in one run come out the same when it is cut, and differ from one another."""
    config = with_loop(tiny_pretrain(method=method, n_seeds=3), env_steps=1_600, n_envs=4)
    pretrain(config, str(tmp_path / "whole"))
    stop_after(monkeypatch, 30)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, str(tmp_path / "cut"))
    monkeypatch.undo()
    pretrain(config, str(tmp_path / "cut"), resume=True)
    assert differing(tmp_path / "whole", tmp_path / "cut") == []
    each = [read_metrics(tmp_path / "whole", f"coverage/{i}")[1] for i in range(3)]
    mean = read_metrics(tmp_path / "whole", "coverage")[1]
    np.testing.assert_allclose(mean, np.mean(each, 0), rtol=1e-12)
    assert len({float(curve[-1]) for curve in each}) == 3


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    broken = {"state_loss": torch.tensor(float("nan"))}
    monkeypatch.setattr(Pretrainer, "update_once", lambda self, batch: broken)
    with pytest.raises(FloatingPointError, match="state_loss not finite after"):
        pretrain(tiny_pretrain(), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_maze_coverage_is_that_of_everything_seen(tmp_path):
    config = presets.pretrain("smoke", "maze-square-a", method="random", n_seeds=2, env_steps=1_000)
    pretrain(with_loop(config, n_envs=4), str(tmp_path / "run"))
    maze = Maze.load("square_a")
    arrays = checkpoint(tmp_path / "run")["replay"]["arrays"]
    for i in range(2):
        mine = [arrays[k][:, 4 * i : 4 * i + 4].reshape(-1, 2).numpy() for k in ("obs", "next_obs")]
        coverage = read_metrics(tmp_path / "run", f"coverage/{i}")[1][-1]
        # The replay rounds to float32, which matters at a bin's edge.
        assert coverage == pytest.approx(maze.coverage(np.concatenate(mine)), abs=2e-3)


def test_an_unknown_reward_is_refused(tmp_path):
    """It does not fall through to a default."""
    with pytest.raises(ValueError, match=r"no intrinsic reward 'rdn'.*edp, particle, random, rnd"):
        pretrain(replace(tiny_pretrain(), method="rdn"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_method_and_settings_must_belong_together():
    config = PretrainConfig(method="edp", reward=RNDConfig())
    with pytest.raises(ValueError, match="reward is a RNDConfig, but method 'edp' wants a Score"):
        Pretrainer(task_spec("arm"), config)


@pytest.mark.parametrize("name", ["n_seeds", "final_batch", "batch"])
def test_numbers_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
        PretrainConfig(**{name: 0})
