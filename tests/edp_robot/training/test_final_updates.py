"""pi_d takes no part in exploring: it learns after the last env_step. A cut run goes on there."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny import tiny_pretrain
from support.trained import checkpoint, differing

from edp_robot.training.checkpoint import flatten
from edp_robot.training.pretrain import Pretrainer, pretrain
from edp_robot.training.runs import read_metrics
from edp_robot.training.train_loop import FINAL_CHUNK


def config(final_updates=2 * FINAL_CHUNK + 5, **changes):
    made = tiny_pretrain(**changes)
    loop = replace(made.loop, env_steps=1_600, final_updates=final_updates)
    return replace(made, loop=loop, final_batch=16)


def test_it_learns_after_the_last_env_step_and_changes_nothing_before(tmp_path):
    pretrain(config(), str(tmp_path / "with"))
    pretrain(config(final_updates=0), str(tmp_path / "without"))
    first = flatten(checkpoint(tmp_path / "with"))[0]
    second = flatten(checkpoint(tmp_path / "without"))[0]
    changed = [n for n in first if n not in second or not torch.equal(first[n], second[n])]
    assert "/learner/model/action_model.head.weight" in changed
    own = ("/learner/model/action_model", "/learner/action", "/torch_rng/cpu")
    assert [name for name in changed if not name.startswith(own)] == []
    steps, loss = read_metrics(tmp_path / "with", "action_loss")
    assert steps.tolist() == [1_600] and np.isfinite(loss).all()
    assert checkpoint(tmp_path / "with")["progress"]["final_updates"] == 2 * FINAL_CHUNK + 5


def test_a_run_that_is_cut_there_goes_on_there(tmp_path, monkeypatch):
    pretrain(config(), str(tmp_path / "whole"))
    finish = Pretrainer.finish
    calls = []

    def cut(self, replay, n_updates, done):
        calls.append(n_updates)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return finish(self, replay, n_updates, done)

    monkeypatch.setattr(Pretrainer, "finish", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(), str(tmp_path / "cut"))
    assert checkpoint(tmp_path / "cut")["progress"]["final_updates"] == 2 * FINAL_CHUNK
    pretrain(config(), str(tmp_path / "cut"), resume=True)
    assert calls == [FINAL_CHUNK, FINAL_CHUNK, 5]
    assert differing(tmp_path / "whole", tmp_path / "cut") == []
    assert read_metrics(tmp_path / "cut", "action_loss")[0].tolist() == [1_600]


def test_more_env_steps_mean_more_of_it(tmp_path, capsys):
    run = str(tmp_path / "run")
    pretrain(config(final_updates=3), run)
    assert pretrain(config(final_updates=3), run, resume=True).final_updates == 3
    assert "is done" in capsys.readouterr().out
    before = checkpoint(tmp_path / "run")["learner"]["model"]
    longer = config(final_updates=3)
    longer = replace(longer, loop=replace(longer.loop, env_steps=2_400))
    progress = pretrain(longer, run, resume=True)
    assert (progress.env_step, progress.final_updates) == (2_400, 3)
    after = checkpoint(tmp_path / "run")["learner"]["model"]
    name = "action_model.head.weight"
    assert not torch.equal(before[name], after[name])


def test_the_rate_falls_as_a_cosine(tmp_path):
    made = config()
    pretrain(made, str(tmp_path / "run"))
    group = checkpoint(tmp_path / "run")["learner"]["action"]["param_groups"][0]
    done = 2 * FINAL_CHUNK / made.loop.final_updates
    rate = made.action_model.learning_rate * (1 + np.cos(np.pi * done)) / 2
    assert float(group["lr"]) == pytest.approx(max(rate, 0.01 * made.action_model.learning_rate))


def test_random_actions_have_nothing_to_finish(tmp_path):
    progress = pretrain(config(method="random"), str(tmp_path / "run"))
    assert (progress.env_step, progress.final_updates) == (1_600, 0)


def test_paper_like_runs_learn_it_all_along(tmp_path):
    made = replace(config(final_updates=0), action_model_every=1)
    pretrain(made, str(tmp_path / "run"))
    assert len(read_metrics(tmp_path / "run", "action_loss")[0]) > 1
