"""Training on environments that are not ours: they end anywhere, and cannot be restored."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support import toys
from support.trained import checkpoint, stop_after

from edp_robot import cli
from edp_robot.config import presets
from edp_robot.training.checkpoint import save_tree
from edp_robot.training.finetune import final_policy, finetune
from edp_robot.training.pretrain import pretrain
from edp_robot.training.runs import read_metrics
from edp_robot.training.train_loop import Loop
from sim.core.finite import NotFinite

assert toys  # its import registers the environments
N_ENVS = 2


def config_of(task, **loop):
    """Returns a pre-training with uniform actions, which takes milliseconds."""
    config = presets.pretrain("smoke", f"gym:{task}", method="random", n_envs=N_ENVS)
    sizes = {"env_steps": 200, "n_action_steps": 4, "n_logs": 5, **loop}
    return replace(config, loop=replace(config.loop, **sizes))


def tuning_of(task, n_step=1, **loop):
    config = presets.finetune("smoke", f"gym:{task}", method="ddpg")
    sizes = {"env_steps": 200, "n_envs": N_ENVS, "updates_per_round": 1, "decisions_per_update": 1}
    tuner = replace(config.tuner, n_step=n_step, width=8)
    return replace(config, loop=replace(config.loop, **{**sizes, **loop}), tuner=tuner)


def replayed(run):
    """Returns the arrays of a run's replay: obs, next_obs, ended, ..., each (rows, n_envs, ...)."""
    return {k: v.numpy() for k, v in checkpoint(run)["replay"]["arrays"].items()}


def test_no_transition_runs_into_another_episode(tmp_path):
    pretrain(config_of("EdpUnequal-v0", env_steps=1_000, n_action_steps=5), str(tmp_path / "run"))
    rows = replayed(tmp_path / "run")
    steps = rows["next_obs"][..., 0] - rows["obs"][..., 0]
    assert (rows["next_obs"][..., 1] == rows["obs"][..., 1]).all()  # of the same episode
    assert set(np.unique(steps)) == {1, 2, 3, 4, 5}
    np.testing.assert_allclose(rows["reward"], steps / 5)
    ended = rows["ended"] > 0
    assert (ended == (rows["next_obs"][..., 0] == rows["obs"][..., 1])).all()
    assert (rows["obs"][1:][ended[:-1]][:, [0, 2]] == 0).all()  # a reset's
    assert (rows["obs"][1:][~ended[:-1]] == rows["next_obs"][:-1][~ended[:-1]]).all()
    progress = checkpoint(tmp_path / "run")["progress"]
    assert progress["env_step"] == steps.sum()  # control steps that were played
    lengths = rows["obs"][ended][:, 1]
    _, found = read_metrics(tmp_path / "run", "episode_return")
    assert found[-1] == pytest.approx(lengths[-100:].mean())


@pytest.mark.parametrize("end", ["signal", "kill"])
def test_episodes_end_where_a_run_was_cut(end, tmp_path, monkeypatch):
    """What came before the seam is not continued by the new episodes after it."""
    config = config_of("EdpEndlessLimit-v0", checkpoint_every_s=0.0)
    run = tmp_path / "run"
    if end == "signal":
        stop_after(monkeypatch, 5)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, str(run))
    else:
        die_after(monkeypatch, 5)
        with pytest.raises(Killed):
            pretrain(config, str(run))
    monkeypatch.undo()
    before = replayed(run)
    n = len(before["obs"])
    assert not before["ended"].any()
    pretrain(config, str(run), resume=True)
    rows = replayed(run)
    assert (rows["ended"][n - 1] == 1).all() and not rows["terminated"][n - 1].any()
    assert (rows["obs"][n][:, 0] == 0).all()
    lengths = before["obs"][0][:, 1]
    assert not set(lengths) & set(rows["obs"][n][:, 1])  # not the first episodes once more
    counts = checkpoint(run)["observer"]["seeds"][0]
    assert counts["n_episodes"] == 2 * ((len(rows["obs"]) - n) // 8)  # 30 control steps
    assert set(counts["recent"].tolist()) <= {30.0}  # returns of whole episodes


class Killed(Exception):
    """Stands for kill -9: the process saves nothing more."""


def die_after(monkeypatch, n):
    """Ends the process in its n-th decision, after checkpoints of all before."""
    decision = Loop.decision
    count = []

    def counted(self):
        count.append(1)
        if len(count) > n:
            raise Killed
        decision(self)

    monkeypatch.setattr(Loop, "decision", counted)


def test_an_older_checkpoint_goes_on(tmp_path, monkeypatch):
    """It has no returns, and its replay took the whole capacity."""
    config = config_of("EdpEndlessLimit-v0")
    stop_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, str(tmp_path))
    monkeypatch.undo()
    saved = checkpoint(tmp_path)
    seen = saved["observer"]["seeds"][0]
    saved["observer"]["seeds"] = [{k: seen[k] for k in ("n_episodes", "n_success", "now")}]
    save_tree(tmp_path / "checkpoint.safetensors", saved)
    assert pretrain(config, str(tmp_path), resume=True).env_step >= 200
    assert (replayed(tmp_path)["ended"][4] == 1).all()


@pytest.mark.parametrize("place", ["obs", "reward", "success", "final"])
def test_what_is_not_finite_is_never_saved(place, tmp_path):
    config = config_of(f"EdpBroken_{place}-v0", n_action_steps=3, checkpoint_every_s=0.0)
    with pytest.raises(NotFinite, match="copy 0, control step 7 of its episode"):
        pretrain(config, str(tmp_path))
    rows = replayed(tmp_path)
    assert len(rows["obs"]) == 2  # the two decisions before
    assert all(np.isfinite(values).all() for values in rows.values())
    with pytest.raises(NotFinite, match="copy 0, control step 7 of its episode") as resumed:
        pretrain(config, str(tmp_path), resume=True)  # the checkpoint is good, the world is not
    assert str(tmp_path / "checkpoint.safetensors") in str(resumed.value)
    assert len(replayed(tmp_path)["obs"]) == 4


def test_learning_waits_for_as_many_steps_as_it_samples(tmp_path):
    config = tuning_of("EdpUnequal-v0", n_step=20, env_steps=60)
    assert finetune(config, str(tmp_path)).env_step == 60
    assert checkpoint(tmp_path)["learner"]["critic"]["state"][0]["step"] == 11  # decisions 20 to 30


def test_a_replay_that_can_never_hold_them_is_an_error(tmp_path):
    config = tuning_of("EdpUnequal-v0", n_step=20, replay_capacity=20)
    with pytest.raises(ValueError, match=r"at most 10\), fewer than n_step=20"):
        finetune(config, str(tmp_path))


def test_the_replay_takes_memory_for_what_the_run_fills(tmp_path):
    held = []
    with pytest.MonkeyPatch.context() as patch:
        save = Loop.save
        patch.setattr(Loop, "save", lambda self: (held.append(self.replay.rows), save(self)))
        pretrain(config_of("EdpEndless-v0", env_steps=200), str(tmp_path / "whole"))
        pretrain(config_of("EdpUnequal-v0", env_steps=200), str(tmp_path / "short"))
    assert held[0] == 200 // (2 * 4)
    assert held[0] < len(replayed(tmp_path / "short")["obs"]) <= held[1]


def test_success_that_is_not_reported_is_not_zero(tmp_path, capsys):
    task = "gym:EdpUnequal-v0"
    words = ["finetune", "--task", task, "--method", "ddpg", "--preset", "smoke", "--env-steps"]
    words += ["400", "--eval-every", "200", "--eval-episodes", "5", "--set", "tuner.width=8"]
    result = tmp_path / "r.json"
    assert cli.main([*words, "--out", str(tmp_path / "run"), "--json", str(result)]) == 0
    assert "success not reported by the task, return 1" in capsys.readouterr().out
    said = json.loads(result.read_text())
    assert (
        said["success"] is None and said["success_low"] is None and 3 <= said["mean_return"] <= 20
    )
    for name in ("mean_return", "episode_return"):
        assert len(read_metrics(tmp_path / "run", name)[0])
    for name in ("success", "n_success_episodes"):
        assert not len(read_metrics(tmp_path / "run", name)[0])
    words[words.index("--eval-episodes") + 1] = "0"
    assert (
        cli.main([*words, "--out", str(tmp_path / "run"), "--json", str(result), "--resume"]) == 0
    )
    assert set(json.loads(result.read_text())) == {"env_steps", "wall_s"}


def test_an_episode_without_a_limit_has_the_one_that_the_task_says(tmp_path):
    config = tuning_of("EdpEndless-v0", n_action_steps=10)
    finetune(config, str(tmp_path))
    assert final_policy(config, tmp_path, 2).mean_return == 1_000
