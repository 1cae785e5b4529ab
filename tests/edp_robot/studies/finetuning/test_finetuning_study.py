"""The study of fine-tuning: its runs, what waits for what, its tables. No run is made for real."""

import csv
import json
import shlex
from dataclasses import replace
from itertools import pairwise

import pytest

from edp_robot import cli
from edp_robot.methods.finetune.fine_tuner import FineTuner
from edp_robot.methods.finetune.gaussian import GaussianTuner
from edp_robot.studies.exploration_runs import Pretraining
from edp_robot.studies.finetuning import bootstrap, finetuning_plots
from edp_robot.studies.finetuning.bootstrap import Estimate
from edp_robot.studies.finetuning.finetuning_study import FinetuningStudy, Options
from edp_robot.studies.finetuning.finetuning_tables import Found, said
from edp_robot.studies.finetuning.scores import score, unit
from edp_robot.studies.finetuning.study_rows import Row, explored_task, resolved
from edp_robot.studies.study_options import command_line

HEAD = "env_step,name,value\n"
FINAL = {"both": 1.0, "weights": 0.5, "data": 0.25, "scratch": 0.0}
FETCH = "gym:FetchReach-v4"  # its reward is no function of the obs


class Blank(FineTuner):
    """A fine-tuner that takes over no networks."""


@pytest.fixture
def undrawn(monkeypatch):
    """Draws no figures, which take most of the time."""
    monkeypatch.setattr(finetuning_plots, "curves_figure", lambda found: b"")
    monkeypatch.setattr(finetuning_plots, "iqm_figure", lambda found: b"")
    monkeypatch.setattr(bootstrap, "N_RESAMPLES", 50)


def options(tmp_path, **changes):
    given = {
        "methods": ("ddpg",),
        "tasks": ("arm-press",),
        "n_seeds": 2,
        "env_steps": 2_000,
        "eval_every": 1_000,
        **changes,
    }
    return Options(runs=tmp_path / "runs", out=tmp_path / "out", **given)


def pretend(job):
    """Writes what the run of a job leaves: 0.1 less return with the second seed."""
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps({"commit": "abc123"}))
    if isinstance(job, Pretraining):
        job.result_path.write_text(json.dumps({"env_steps": job.env_steps}))
        return
    end = FINAL[job.row.start] - 0.1 * job.seed
    reports = job.task.startswith("arm")
    rows = []
    for step, share in ((0, 0.0), (1_010, 0.8), (2_000, 0.6)):
        rows += [f"{step},mean_return,{10 * share * end}"]
        rows += [f"{step},success,{share * end}"] * reports
    rows += ["0,grad_steps,30"] * (job.row.start in ("both", "data"))
    for name, value in (("grad_steps", 130), ("learn_cpu_s", 2), ("cpu_s", 5), ("wall_s", 9)):
        rows.append(f"2000,{name},{value}")
    (job.folder / "metrics.csv").write_text(HEAD + "\n".join(rows) + "\n")
    result = {"env_steps": 2_000, "mean_return": 10 * end}
    job.result_path.write_text(json.dumps(result | ({"success": end} if reports else {})))


def run(o, ended, broken=()):
    started = []

    def start(job):
        started.append(job)
        if job.folder.name not in broken:
            pretend(job)
        return ended(int(job.folder.name in broken))

    study = FinetuningStudy(o, "here", start)
    return study, study(), started


def test_every_row_starts_from_the_one_pretraining_of_its_seed(tmp_path, ended, undrawn, capsys):
    o = options(tmp_path, tasks=("arm-press", "arm-reach-left"), n_seeds=1)
    _, ok, started = run(o, ended)
    assert ok and len(started) == 1 + 2 * 4
    explored, *tuned = started
    assert (explored.task, explored.env_steps) == ("arm", 288_000)  # the preset's
    assert explored.folder == tmp_path / "runs" / "pretrained" / "arm" / "edp-0"
    starts = [job.words()[job.words().index("--from") + 1] for job in tuned if job.explored]
    assert starts == [str(explored.folder)] * 6
    assert [job.row.start for job in tuned[:2]] == ["scratch"] * 2  # beside the pre-training
    capsys.readouterr()
    _, ok, started = run(o, ended)
    assert ok and started == [] and "9/9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("start", "words", "settings"),
    [
        ("both", ["True"], ["reuse_policy=true"]),
        ("weights", ["False"], ["reuse_policy=true"]),
        ("data", ["True"], ["reuse_policy=false"]),
        ("scratch", [], []),
    ],
)
def test_a_rows_command(tmp_path, start, words, settings):
    o = options(tmp_path, methods=("ddpg tuner.n_step=2 tuner.width=64",), n_seeds=1, seed=7)
    (job,) = [job for job in o.tunings(7) if job.row.start == start]
    assert job.folder.name == f"ddpg-tuner.n-step-2-tuner.width-64-{start}-7"
    said = job.words()
    assert said[:7] == ["finetune", "--task", "arm-press", "--method", "ddpg", "--seed", "7"]
    assert said[said.index("--eval-every") + 1] == "1000"
    assert [b for a, b in pairwise(said) if a == "--reuse-replay"] == words
    own = ["tuner.n_step=2", "tuner.width=64", "n_eval_episodes=100"]
    assert said[said.index("--set") + 1 :] == own + settings


def test_the_tables_by_hand(tmp_path, ended):
    o = options(tmp_path)
    run(o, ended)
    text = (o.out / "table.md").read_text()
    head = "| method, start | at 0 | at 1,000 | at 2,000 | best on the way | **success at the end**"
    assert head in text
    row = "| ddpg, both | **0.000 [0.000, 0.000] (2)** | **0.760 [0.720, 0.800] (2)** |"
    assert row in text
    assert "| **0.950 [0.900, 1.000] (2)** | **9.5 [9.0, 10.0] (2)** |" in text
    # All of both's runs are above all of scratch's.
    row = "| ddpg, both | 2, 1 | 0.95 [0.90, 1.00] | 0.95 [0.90, 1.00] | 1.00 [1.00, 1.00] | - |"
    assert row in text
    assert "| ddpg, scratch | 2, 1 | -0.05 [-0.10, 0.00] | -0.05 [-0.10, 0.00] | - | 0.00 [" in text
    assert "| ddpg, data | 130 | 30 | 65 | 5 | 9 |" in text  # 130 grad_steps in 2 s
    assert "| ddpg, weights | 130 | 0 | 65 | 5 | 9 |" in text
    assert "--methods ddpg --tasks arm-press" in text and "runs are complete" not in text
    assert {path.name for path in o.out.iterdir()} == {
        "table.md",
        "runs.csv",
        "curves.csv",
        "curves.png",
        "iqm.png",
    }
    rows = list(csv.DictReader((o.out / "runs.csv").open()))
    assert [row["start"] for row in rows[::2]] == ["both", "weights", "data", "scratch"]
    assert len(rows) == 8 and rows[0]["at_1000"] == "0.8"
    assert "finetune --task arm-press" in rows[0]["command"] and rows[0]["commit"] == "abc123"
    assert len(list(csv.DictReader((o.out / "curves.csv").open()))) == 8 * 3


def test_a_finished_run_shows_at_once_and_a_broken_one_is_told(tmp_path, ended, undrawn, capsys):
    o = options(tmp_path, n_seeds=1)
    study, ok, _ = run(o, ended, broken=("ddpg-data-0",))
    assert not ok and [job.row.start for job in study.failed] == ["data"]
    text = (o.out / "table.md").read_text()
    assert "**3 of 4 runs are complete.**" in text and "ddpg, data |" not in text
    assert "arm-press, ddpg, data, seed 0: failed" in capsys.readouterr().out


def test_what_starts_from_a_failed_pretraining_is_not_tried(tmp_path, ended, undrawn):
    _, ok, started = run(options(tmp_path, n_seeds=1), ended, broken=("edp-0",))
    assert not ok and [job.folder.name for job in started] == ["edp-0", "ddpg-scratch-0"]


def test_other_methods_than_those_of_the_rows_have_one(tmp_path):
    o = options(tmp_path, methods=("ddpg", "edp"), rows_of=("ddpg",))
    assert [str(row) for row in o.rows] == [
        "ddpg, both",
        "ddpg, weights",
        "ddpg, data",
        "ddpg, scratch",
        "edp, both",
    ]
    assert str(o.plan().reference) == "ddpg, both"


def test_rows_that_cannot_be_are_told(tmp_path, ended, undrawn):
    o = options(tmp_path, tasks=("arm-press", FETCH), n_seeds=1)
    _, ok, started = run(o, ended)
    assert ok
    made = [(job.task, job.row.start) for job in started if not isinstance(job, Pretraining)]
    assert sorted(made) == [
        ("arm-press", "both"),
        ("arm-press", "data"),
        ("arm-press", "scratch"),
        ("arm-press", "weights"),
        (FETCH, "scratch"),
        (FETCH, "weights"),
    ]
    text = (o.out / "table.md").read_text()
    assert f"- On {FETCH} the row `ddpg, both` is `ddpg, weights`: its reward does not" in text
    assert f"- {FETCH} has no row `ddpg, data`: its reward does not follow" in text
    assert f"IQM and mean leave out {FETCH}" in text
    assert "| ddpg, both | 2, 2 |" in text  # one of them is the run of `weights`


def test_what_a_method_and_an_exploration_give():
    random = resolved(Row("ddpg", "weights"), "arm-press", "random")
    assert random == ("", "arm-press has no row `ddpg, weights`: `random` trains no networks.")
    assert resolved(Row("ddpg", "both"), "arm-press", "random")[0] == "data"
    own = f"{Blank.__module__}:Blank"
    start, why = resolved(Row(own, "both"), "arm-press", "edp")
    assert start == "data" and f"`{own}` takes over no networks" in why
    assert resolved(Row("ddpg", "scratch"), FETCH, "random") == ("scratch", "")
    assert GaussianTuner.start_from is not FineTuner.start_from


@pytest.mark.parametrize(
    ("task", "explored"),
    [
        ("arm-press", "arm"),
        ("arm-push", "arm-puck"),
        ("walker-mass-run", "walker-mass"),
        ("walker-mass-walk", "walker-mass"),
        ("hopper-hop-backward", "hopper"),
        (FETCH, FETCH),
    ],
)
def test_the_world_that_is_explored(task, explored):
    assert explored_task(task) == explored


def test_one_rule_for_scores():
    assert (
        score("walker-run", 398.0, None) == 0.5 and unit("walker-run", False) == "return / expert's"
    )
    assert score("arm-press", 120.0, 0.4) == 0.4 and unit("arm-press", True) == "success"
    assert score("hopper-hop", 120.0, None) == 120 and unit("hopper-hop", False) == "return"


def test_a_run_is_not_continued_with_other_options(tmp_path, ended, undrawn):
    o = options(tmp_path, n_seeds=1)
    run(o, ended)
    with pytest.raises(ValueError, match="made with --eval-episodes 100, and --eval-episodes 7 is"):
        FinetuningStudy(replace(o, eval_episodes=7), "here")
    with pytest.raises(ValueError, match="--env-steps 2000, and --env-steps 4000 is asked now"):
        FinetuningStudy(replace(o, env_steps=4_000), "here")
    with pytest.raises(ValueError, match="--env-steps 288000, and --env-steps 5000 is asked now"):
        FinetuningStudy(replace(o, pretrain_env_steps=5_000), "here")


def test_the_command_is_read_back(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(FinetuningStudy, "__init__", lambda self, o, machine: read.append(o))
    monkeypatch.setattr(FinetuningStudy, "__call__", lambda self: True)
    asked = options(tmp_path, methods=("ddpg tuner.width=64", "ddpg"), at_env_steps=(0, 2_000))
    words = command_line("finetuning", asked)
    assert cli.main(shlex.split(words)[1:]) == 0
    assert read == [asked]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--methods", "dpgd"], "no fine-tuner 'dpgd'"),
        (["--methods", "ddpg tuner.wdth=3"], "no setting 'tuner.wdth'"),
        (["--tasks", "arm-wave"], "no task 'arm-wave'"),
        (["--rows-of", "ddpg", "--methods", "edp"], "'ddpg'; there are: edp"),
        (["--explore", "best"], "no intrinsic reward 'best'"),
        (["--at-env-steps", "500"], "at_env_steps=500: give multiples of --eval-every 5000"),
        (["--eval-every", "60000"], "eval_every=60000: give at most --env-steps 50000"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, words, problem, capsys):
    files = ["--runs", str(tmp_path / "r"), "--out", str(tmp_path / "o")]
    assert cli.main(["study", "finetuning", *words, *files]) != 0
    error = capsys.readouterr().err
    assert problem in error and "Traceback" not in error


def test_one_value_has_no_interval():
    assert said(Estimate(0.5, float("nan"), float("nan"))) == "0.50" and said(None) == "-"


def test_every_row_has_a_look_of_its_own(tmp_path):
    methods = ("ddpg", "edp", "edp-guidance")
    found = Found(options(tmp_path, methods=methods).plan(), [])
    looks = [tuple(look.values()) for look in finetuning_plots.looks(found).values()]
    assert len(set(looks)) == len(looks) == 12


def test_curves_of_many_rows_show_each_method_once(tmp_path):
    methods = ("ddpg", "edp", "edp-guidance", "ddpg tuner.width=64")
    found = Found(options(tmp_path, methods=methods).plan(), [])
    assert [str(row) for row in finetuning_plots.drawn(found)] == [
        "ddpg, both",
        "ddpg, weights",
        "ddpg, data",
        "ddpg, scratch",
        "edp, both",
        "edp-guidance, both",
        "ddpg tuner.width=64, both",
    ]
