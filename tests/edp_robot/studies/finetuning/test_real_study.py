"""A study whose runs are made for real, in this process: cut short, continued, read."""

import csv

import pytest
from support.trained import checkpoint, stop_after

from edp_robot import cli
from edp_robot.studies.finetuning import bootstrap
from edp_robot.studies.finetuning.finetuning_study import FinetuningStudy, Options
from edp_robot.training.runs import read_metrics
from edp_robot.training.train_loop import Loop

ENV_STEPS = 1_600


@pytest.fixture
def study(tmp_path, ended, monkeypatch):
    """Runs the study; returns whether all of it is complete, and the names of what was started."""
    monkeypatch.setattr(bootstrap, "N_RESAMPLES", 50)
    sizes = {"n_seeds": 1, "pretrain_env_steps": 3_200, "env_steps": ENV_STEPS}
    o = Options(
        methods=("ddpg",),
        tasks=("arm-press",),
        preset="smoke",
        eval_every=800,
        eval_episodes=2,
        runs=tmp_path / "runs",
        out=tmp_path / "out",
        **sizes,
    )

    def run():
        started = []

        def start(job):
            started.append(job.folder.name)
            return ended(cli.main(job.args()))

        return FinetuningStudy(o, "here", start)(), started

    return run


def test_a_run_that_was_cut_short_goes_on(study, tmp_path, monkeypatch):
    both = tmp_path / "runs" / "arm-press" / "ddpg-both-0"
    begin = Loop._begin

    def cut(loop, *given):
        begin(loop, *given)
        if loop.run.path == both:
            stop_after(monkeypatch, 2)

    monkeypatch.setattr(Loop, "_begin", cut)
    ok, started = study()
    assert not ok and started[:3] == ["edp-0", "ddpg-scratch-0", "ddpg-both-0"]
    before = checkpoint(both)["progress"]
    assert 0 < before["env_step"] < ENV_STEPS and before["offline_rounds"] == 1
    table = (tmp_path / "out" / "table.md").read_text()
    assert "**3 of 4 runs are complete.**" in table and "| ddpg, both |" not in table
    monkeypatch.undo()
    resumed = []
    resume = Loop.resume
    monkeypatch.setattr(
        Loop, "resume", lambda loop: (resume(loop), resumed.append(loop.progress.env_step))
    )
    assert study() == (True, ["ddpg-both-0"]) and resumed == [before["env_step"]]
    assert study() == (True, [])
    assert read_metrics(both, "mean_return")[0].tolist() == [0, 800, 1600]
    rows = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert {row["start"]: float(row["offline_grad_steps"]) > 0 for row in rows} == {
        "both": True,
        "weights": False,
        "data": True,
        "scratch": False,
    }
