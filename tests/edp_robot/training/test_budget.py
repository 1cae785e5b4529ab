"""A budget of processor time ends a run properly. The clock is a toy: a second for each decision.

The final grad_steps take one more.
"""

import os
import signal
from dataclasses import replace

import pytest
from support.tiny import tiny_pretrain
from support.trained import checkpoint

from edp_robot.training import train_loop
from edp_robot.training.pretrain import Pretrainer, pretrain
from edp_robot.training.runs import read_metrics

PER_DECISION = 80  # env_steps


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Returns a list whose length is the processor time of all processes so far [s]."""
    ticks = []

    keep_time = train_loop.Loop._keep_time

    def later(loop):
        ticks.append(None)
        keep_time(loop)

    monkeypatch.setattr(train_loop.Loop, "_keep_time", later)
    monkeypatch.setattr(train_loop.time, "process_time", lambda: float(len(ticks)))
    return ticks


def config(max_cpu_s=20.0, **loop):
    made = tiny_pretrain()
    sizes = {"env_steps": 80_000, "max_cpu_s": max_cpu_s, "final_updates": 5, "n_logs": 10, **loop}
    return replace(made, loop=replace(made.loop, **sizes), final_batch=16)


def test_exploring_ends_with_the_budget_and_pi_d_learns_still(tmp_path):
    progress = pretrain(config(), str(tmp_path))
    assert progress.env_step == 20 * PER_DECISION and progress.final_updates == 5
    assert progress.cpu_s == 21.0  # one second for the final updates
    assert checkpoint(tmp_path)["progress"]["env_step"] == progress.env_step
    steps, cpu_s = read_metrics(tmp_path, "cpu_s")
    assert (steps / PER_DECISION).tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert cpu_s.tolist() == [2, 4, 6, 8, 10, 12, 14, 16, 18, 21]


def test_a_resumed_run_counts_what_it_used_before(tmp_path, monkeypatch, capsys):
    update = Pretrainer.update
    shares = []

    def cut(self, replay, n_updates, done):
        shares.append(done)
        if len(shares) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, replay, n_updates, done)

    monkeypatch.setattr(Pretrainer, "update", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(), str(tmp_path))
    used = checkpoint(tmp_path)["progress"]["cpu_s"]
    assert 0 < used < 20
    progress = pretrain(config(), str(tmp_path), resume=True)
    assert progress.env_step == 20 * PER_DECISION and progress.final_updates == 5
    assert shares == sorted(shares) and shares[-1] == 19 / 20  # of the budget
    capsys.readouterr()
    assert vars(pretrain(config(), str(tmp_path), resume=True)) == vars(progress)
    assert "raise loop.max_cpu_s, whose 20 s are used up" in capsys.readouterr().out


def test_a_larger_budget_goes_on_and_learns_pi_d_anew(tmp_path):
    pretrain(config(), str(tmp_path))
    progress = pretrain(config(max_cpu_s=30.0), str(tmp_path), resume=True)
    assert progress.env_step == 29 * PER_DECISION and progress.final_updates == 5


def test_env_steps_end_a_run_that_has_time_left(tmp_path):
    progress = pretrain(config(max_cpu_s=1e6, env_steps=1_600), str(tmp_path))
    assert progress.env_step == 1_600
