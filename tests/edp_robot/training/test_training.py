import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import tiny_finetune, tiny_pretrain

from edp_robot.config import presets
from edp_robot.methods.replay import Replay
from edp_robot.training.checkpoint import flatten, load_tree
from edp_robot.training.finetune import finetune, learn_offline, make_learner
from edp_robot.training.pretrain import pretrain
from edp_robot.training.runs import read_metrics
from edp_robot.training.source import load_pretrained
from edp_robot.training.train_loop import Loop
from sim.core.registry import task_spec
from sim.tasks.mazes import Maze


def tensors(run):
    return flatten(
        {k: v for k, v in load_tree(run / "checkpoint.safetensors").items() if k != "progress"}
    )[0]


def same(a, b):
    assert a.keys() == b.keys()
    return [k for k in a if not torch.equal(a[k], b[k])]


def stop_after(monkeypatch, n):
    """Asks the loop to stop, as Ctrl-C does, after n decisions."""
    decision, count = Loop.decision, []

    def counted(self):
        count.append(1)
        if len(count) == n:
            os.kill(os.getpid(), signal.SIGINT)
        return decision(self)

    monkeypatch.setattr(Loop, "decision", counted)


def test_pretraining_writes_what_it_promises(pretrained):
    held = json.loads((pretrained / "config.json").read_text())
    assert held["kind"] == "PretrainConfig" and held["config"]["task"] == "arm"
    steps, coverage = read_metrics(pretrained, "coverage")
    assert steps[-1] == 3200 and 0 < coverage[-1] < 0.2 and (np.diff(coverage) >= 0).all()
    assert list(pretrained.glob("events.out.tfevents.*"))
    assert not list(pretrained.glob(".*.tmp"))


def test_resumed_pretraining_equals_uninterrupted(pretrained, tmp_path, monkeypatch):
    stop_after(monkeypatch, 20)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_pretrain(), str(tmp_path / "cut"))
    assert load_tree(tmp_path / "cut" / "checkpoint.safetensors")["progress"]["env_step"] == 1600
    monkeypatch.undo()
    pretrain(tiny_pretrain(), str(tmp_path / "cut"), resume=True)
    assert same(tensors(pretrained), tensors(tmp_path / "cut")) == []
    for name in ("coverage", "state_loss", "critic_loss"):
        whole, cut = read_metrics(pretrained, name), read_metrics(tmp_path / "cut", name)
        assert np.array_equal(whole[0], cut[0]) and np.array_equal(whole[1], cut[1])


@pytest.mark.parametrize("method", ["edp", "edp-guidance", "ddpg"])
def test_resumed_finetuning_equals_uninterrupted(pretrained, tmp_path, monkeypatch, method):
    config = tiny_finetune(pretrained, method=method)
    finetune(config, str(tmp_path / "whole"))
    stop_after(monkeypatch, 25)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, str(tmp_path / "cut"))
    monkeypatch.undo()
    finetune(config, str(tmp_path / "cut"), resume=True)
    differ = same(tensors(tmp_path / "whole"), tensors(tmp_path / "cut"))
    assert differ == []


def test_killed_training_resumes(tmp_path):
    """kill -9 in the middle of a real process; the next one goes on from the last checkpoint."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from dataclasses import replace\n"
        "from support.tiny import tiny_pretrain\n"
        "from edp_robot.training import train_loop\n"
        "from edp_robot.training.pretrain import pretrain\n"
        "save = train_loop.Loop.save\n"
        "train_loop.Loop.save = lambda self: (save(self), print('saved', flush=True))\n"
        "c = tiny_pretrain(); c = replace(c, loop=replace(c.loop, env_steps=10**7, checkpoint_every_s=0.2))\n"
        "pretrain(c, sys.argv[1])\n"
    )
    here = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run"), here], stdout=subprocess.PIPE, text=True
    )
    try:
        assert [child.stdout.readline().strip() for _ in range(2)] == ["saved", "saved"]
    finally:
        child.kill()
        child.wait()
    saved = load_tree(tmp_path / "run" / "checkpoint.safetensors")["progress"]["env_step"]
    config = tiny_pretrain()
    config = replace(config, loop=replace(config.loop, env_steps=10**7, checkpoint_every_s=0.2))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 3)
        pretrain(config, str(tmp_path / "run"), resume=True)
    assert (
        load_tree(tmp_path / "run" / "checkpoint.safetensors")["progress"]["env_step"]
        == saved + 3 * 80
    )


def test_a_killed_maze_run_ends_on_the_same_curve(tmp_path):
    """kill -9 of `edp pretrain` once it has saved; --resume ends bit for bit where a run in peace does."""
    sizes = ["--task", "maze-square-large", "--preset", "smoke", "--n-seeds", "2"]
    often = ["--set", "loop.checkpoint_every_s=0.2", "loop.n_logs=20"]

    def command(name, *more):
        return [
            sys.executable,
            "-m",
            "edp_robot.cli",
            "pretrain",
            *sizes,
            *often,
            "--out",
            str(tmp_path / name),
            *more,
        ]

    child = subprocess.Popen(command("cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint, deadline = tmp_path / "cut" / "checkpoint.safetensors", time.monotonic() + 120
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert 0 < load_tree(checkpoint)["progress"]["env_step"] < 6_400
    for name, more in (("cut", ["--resume"]), ("whole", [])):
        subprocess.run(command(name, *more), check=True, capture_output=True, timeout=300)
    assert same(tensors(tmp_path / "cut"), tensors(tmp_path / "whole")) == []
    for name in ("coverage/0", "coverage/1"):
        cut, whole = read_metrics(tmp_path / "cut", name), read_metrics(tmp_path / "whole", name)
        assert (
            len(whole[0]) >= 20
            and np.array_equal(cut[0], whole[0])
            and np.array_equal(cut[1], whole[1])
        )


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    from edp_robot.training.pretrain import Pretrainer

    monkeypatch.setattr(
        Pretrainer, "update_once", lambda self, batch: {"state_loss": torch.tensor(float("nan"))}
    )
    with pytest.raises(FloatingPointError, match="state_loss not finite after"):
        pretrain(tiny_pretrain(), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_finetuning_starts_as_the_pretrained_policy_with_relabelled_replay(pretrained):
    saved = load_tree(pretrained / "checkpoint.safetensors")
    learner = make_learner(task_spec("arm-press"), tiny_finetune(pretrained))
    for model in (learner.reference, learner.psi, learner.psi_average):
        for key, value in model.state_dict().items():
            assert torch.equal(value, saved["learner"]["model"][f"action_model.{key}"][0])
    obs = saved["replay"]["arrays"]["next_obs"].numpy()
    assert np.array_equal(learner.prior.reward, (obs[..., 21] > 0.005).astype(np.float32))


def test_without_relabelling_there_is_no_prior(pretrained):
    assert (
        make_learner(task_spec("arm-press"), tiny_finetune(pretrained, reuse_replay=False)).prior
        is None
    )


def test_learning_offline_takes_no_env_step(pretrained, tmp_path):
    config = tiny_finetune(pretrained, offline_rounds=2)
    learner = make_learner(task_spec("arm-press"), config)
    online = Replay(100, 4, 22, 6, 0)
    learn_offline(learner, online, config)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(learner.psi.parameters(), learner.reference.parameters(), strict=True)
    ]
    assert all(moved) and len(online) == 0
    assert (
        learner.iql.optimizer.state_dict()["state"][0]["step"] == 2 * config.loop.updates_per_round
    )
    scratch = make_learner(task_spec("arm-press"), replace(config, start=""))
    before = [p.clone() for p in scratch.psi.parameters()]
    learn_offline(scratch, online, config)
    assert all(torch.equal(a, b) for a, b in zip(before, scratch.psi.parameters(), strict=True))


def test_a_start_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        finetune(tiny_finetune(tmp_path / "nothing"), str(tmp_path / "out"))


def test_presets_list_what_exists():
    with pytest.raises(ValueError, match=r"no preset 'papr'; there are: smoke, demo, paper"):
        presets.pretrain("papr", "arm")


def test_paper_preset_is_the_papers():
    maze, walker = (
        presets.pretrain("paper", "maze-square-a"),
        presets.pretrain("paper", "gym:Walker2d-v5"),
    )
    assert (maze.reward.n_draws, maze.loop.updates_per_round, maze.batch) == (20, 5, 1024)
    assert walker.batch == 256 and maze.ddpg.width == 1024 and maze.ddpg.n_step == 3
    model = maze.reward.model
    assert (model.width, model.inner, model.dropout) == (256, 1024, 0.1)
    tune = presets.finetune("paper", "arm-press")
    assert tune.method == "edp-guidance" and not tune.reuse_replay
    tuner = tune.tuner
    assert (tuner.n_proposals, tuner.inverse_temp, tuner.iql.expectile) == (32, 3.0, 0.7)
    assert tune.loop.updates_per_round == tune.loop.decisions_per_update == 10_000


@pytest.mark.parametrize("method", ["edp", "rnd", "particle", "random"])
def test_seeds_at_once_resume_and_come_apart(tmp_path, monkeypatch, method):
    """Three learners in one run: the same again, the same when cut, and each can be fine-tuned from."""
    config = tiny_pretrain(method=method, n_seeds=3)
    config = replace(config, loop=replace(config.loop, env_steps=2_400, n_envs=4))
    for name in ("whole", "again"):
        pretrain(config, str(tmp_path / name))
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "again")) == []
    stop_after(monkeypatch, 40)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, str(tmp_path / "cut"))
    monkeypatch.undo()
    pretrain(config, str(tmp_path / "cut"), resume=True)
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "cut")) == []
    each = [read_metrics(tmp_path / "whole", f"coverage/{i}")[1] for i in range(3)]
    np.testing.assert_allclose(
        read_metrics(tmp_path / "whole", "coverage")[1], np.mean(each, 0), rtol=1e-12
    )
    assert len({float(c[-1]) for c in each}) == 3


def test_one_of_several_seeds_is_cut_out(tmp_path):
    config = tiny_pretrain(n_seeds=2)
    pretrain(
        replace(config, loop=replace(config.loop, env_steps=1_600, n_envs=4)), str(tmp_path / "run")
    )
    saved = load_tree(tmp_path / "run" / "checkpoint.safetensors")
    second = load_pretrained(tmp_path / "run", 1)
    obs = torch.randn(5, 22)
    for name, own in second.part("ddpg.actor").items():
        assert torch.equal(own, saved["learner"]["model"][f"ddpg.actor.{name}"][1])
    assert torch.equal(second.replay["arrays"]["obs"], saved["replay"]["arrays"]["obs"][:, 4:])
    learner = make_learner(task_spec("arm-press"), tiny_finetune(tmp_path / "run", start_seed=1))
    assert (
        learner.prior.n_envs == 4 and torch.isfinite(learner.policy(obs, torch.randn(5, 6))).all()
    )
    with pytest.raises(ValueError, match="has 2 seeds, 0 to 1; there is no seed 2"):
        load_pretrained(tmp_path / "run", 2)


def test_maze_coverage_is_that_of_everything_seen(tmp_path):
    config = presets.pretrain("smoke", "maze-square-a", method="random", n_seeds=2, env_steps=1_000)
    pretrain(replace(config, loop=replace(config.loop, n_envs=4)), str(tmp_path / "run"))
    maze, arrays = (
        Maze.load("square_a"),
        load_tree(tmp_path / "run" / "checkpoint.safetensors")["replay"]["arrays"],
    )
    for i in range(2):
        mine = [arrays[k][:, 4 * i : 4 * i + 4].reshape(-1, 2).numpy() for k in ("obs", "next_obs")]
        coverage = read_metrics(tmp_path / "run", f"coverage/{i}")[1][-1]
        assert coverage == pytest.approx(
            maze.coverage(np.concatenate(mine)), abs=2e-3
        )  # float32 at a bin's edge
