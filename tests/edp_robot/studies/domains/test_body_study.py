"""The study of bodies: its runs, what waits for what, its tables. No run is made for real."""

import json
import math

import numpy as np
import pytest

from edp_robot import cli
from edp_robot.studies.domains.domain_plots import LOOKS
from edp_robot.studies.domains.domain_runs import Curves, Downstream, exploring, measure_names
from edp_robot.studies.domains.domain_study import BodyOptions, BodyStudy
from edp_robot.studies.domains.domain_tables import cell, table
from edp_robot.studies.exploration import Options
from edp_robot.studies.exploration_runs import Pretraining

HEAD = "env_step,name,value\n"


def options(tmp_path, **changes):
    given = {
        "domains": ("arm",),
        "recipes": ("particle", "random"),
        "n_seeds": 2,
        "downstream_steps": (4_000, 2_000),
        "at_env_steps": 150,
        "cpu_s": 20.0,
        **changes,
    }
    return BodyOptions(**Options(runs=tmp_path / "runs", out=tmp_path / "out", **given).of_bodies())


def pretend(job):
    """Writes what the run of a job leaves: the second seed's hand covers 0.1 more."""
    job.folder.mkdir(parents=True)
    job.result_path.write_text(json.dumps({"env_steps": 200, "seed": job.seed}))
    rows = []
    if isinstance(job, Pretraining):
        for step, cpu_s, hand in ((100, 10.0, 0.2), (200, 20.0, 0.4)):
            said = {"coverage_hand": hand + job.seed / 10, "coverage_joints": 0.5}
            rows += [f"{step},{name}/0,{value}" for name, value in said.items()]
            rows += [f"{step},coverage/0,{hand}", f"{step},cpu_s,{cpu_s}"]
    else:
        rows += ["2010,mean_return,1.0", "4000,mean_return,2.0"]
    (job.folder / "metrics.csv").write_text(HEAD + "\n".join(rows) + "\n")


def run(o, ended, broken=()):
    started = []

    def start(job):
        started.append(job)
        if job.name not in broken:
            pretend(job)
        return ended(int(job.name in broken))

    def entropy(run, kept):
        return 1.5 if "particle" in run.name else 1.0

    study = BodyStudy(o, "here", start, entropy)
    return study, study(), started


def test_an_exploring_run_ends_with_its_processor_time(tmp_path):
    job = exploring(tmp_path, "walker", "edp, authors' settings", 7, 240.0)
    assert job.folder == tmp_path / "walker" / "edp-authors-settings-7"
    words = job.args()
    assert "loop.max_cpu_s=240" in words and "--preset=paper" in words and "--seed=7" in words


def test_a_recipe_on_named_numbers_gets_those_of_its_domain(tmp_path):
    job = exploring(tmp_path, "arm", "rnd, named numbers", 0, 60.0)
    assert 'reward.fields=["end_effector", "button_travel"]' in job.args()
    assert not [w for w in exploring(tmp_path, "arm", "rnd", 0, 60.0).args() if "fields" in w]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("random", {"reuse_policy=false"}),
        ("particle", set()),
        ("edp, authors' settings", {"tuner.width=1024", "tuner.layer_norm=false"}),
    ],
)
def test_the_fine_tuner_differs_by_the_actor_alone(tmp_path, recipe, said):
    job = Downstream(tmp_path, "walker", recipe, "walker-walk", 3, 240.0, (10_000, 50_000), 20)
    words = job.words()
    settings = words[words.index("--set") + 1 :]
    shared = {"n_eval_episodes=20", "loop.updates_per_round=5", "offline_rounds=6"}
    assert set(settings) == said | shared
    assert words[words.index("--from") + 1] == str(job.explored.folder)
    assert words[words.index("--eval-every") + 1] == "10000"
    assert words[words.index("--env-steps") + 1] == "50000"


def test_fine_tuning_follows_exploring_and_nothing_runs_twice(tmp_path, ended, capsys):
    o = options(tmp_path)
    study, ok, started = run(o, ended)
    assert ok and len(started) == len(study.jobs) == 2 * (2 + 2 * 3)
    kinds = [isinstance(job, Pretraining) for job in started]
    assert kinds == [True] * 2 + [False] * 6 + [True] * 2 + [False] * 6  # seed after seed
    text = (o.out / "domains.md").read_text()
    mean = "0.450 [-0.185, 1.085] (2)"  # of 0.4 and 0.5: 12.706 standard errors of .05
    assert f"| particle | **{mean}** | **0.500 [0.500, 0.500] (2)** | **1.500 [1.500," in text
    assert "0.350 [-0.285, 0.985] (2)" in text  # at 150 env_steps
    assert "| from scratch | **1.000 [1.000, 1.000] (2)** | **2.000" in text
    assert "--domains arm --recipes particle random" in text
    assert {path.name for path in o.out.iterdir()} == {
        "domains.md",
        "domains.csv",
        "domains.png",
        "downstream.png",
    }
    capsys.readouterr()
    _, ok, started = run(o, ended)
    assert ok and started == [] and "16/16" in capsys.readouterr().out


def test_fewer_seeds_may_be_fine_tuned_than_explore(tmp_path, ended):
    _, _, started = run(options(tmp_path, n_seeds=3, downstream_seeds=1), ended)
    assert len(started) == 3 * 2 + 2 * 3
    assert {job.seed for job in started if isinstance(job, Downstream)} == {0}


def test_recipes_on_named_numbers_are_left_out_where_a_task_names_none(tmp_path, ended):
    recipes = ("particle", "particle, named numbers")
    changes = {"recipes": recipes, "n_seeds": 1, "downstream_steps": ()}
    _, _, started = run(options(tmp_path, domains=("arm", "walker"), **changes), ended)
    assert [(job.task, job.name) for job in started] == [
        ("arm", "particle-0"),
        ("arm", "particle-named-numbers-0"),
        ("walker", "particle-0"),
    ]


def test_only_the_tasks_that_are_asked_for_are_learned(tmp_path, ended):
    o = options(tmp_path, n_seeds=1, downstream_tasks=("arm-reach-left",))
    _, ok, started = run(o, ended)
    assert ok
    assert {job.task for job in started if isinstance(job, Downstream)} == {"arm-reach-left"}
    assert "arm-press" not in (o.out / "domains.md").read_text()
    for wrong in ("arm-wave", "walker-walk"):  # the second is no task of the arm
        with pytest.raises(ValueError, match=f"no downstream task '{wrong}'; there are: arm-press"):
            options(tmp_path, downstream_tasks=(wrong,))


def test_what_starts_from_a_failed_run_is_not_tried(tmp_path, ended):
    study, ok, started = run(options(tmp_path, n_seeds=1), ended, broken=("random-0",))
    assert not ok and [job.name for job in study.failed] == ["random-0"]
    assert {job.recipe for job in started if isinstance(job, Downstream)} == {
        "particle",
        "from scratch",
    }


def test_more_fine_tuning_goes_on_and_another_time_is_refused(tmp_path, ended):
    run(options(tmp_path, n_seeds=1), ended)
    longer = BodyStudy(options(tmp_path, n_seeds=1, downstream_steps=(2_000, 8_000)), "here")
    assert [job.finished() for job in longer.jobs] == [True] * 2 + [False] * 6
    with pytest.raises(ValueError, match="max_cpu_s=20"):
        BodyStudy(options(tmp_path, n_seeds=1, cpu_s=30.0), "here")
    with pytest.raises(ValueError, match="--downstream-episodes 20, and 5 is asked"):
        BodyStudy(options(tmp_path, n_seeds=1, downstream_episodes=5), "here")


def test_points_of_a_curve_by_hand():
    curves = Curves(np.array([100, 200]), np.array([10.0, 20.0]), {"c": np.array([0.2, 0.4])}, {})
    assert curves.at_time("c", 15.0) == pytest.approx(0.3)
    assert curves.at_step("c", 150) == pytest.approx(0.3)
    assert math.isnan(curves.at_time("c", 20.1)) and math.isnan(curves.at_step("c", 201))


def test_the_only_measure_of_a_task_is_its_coverage(tmp_path):
    (tmp_path / "metrics.csv").write_text(HEAD + "1,coverage/0,0.5\n1,coverage,0.5\n1,loss,2\n")
    assert measure_names(tmp_path) == ["coverage"]


def test_cells_and_ties_by_hand():
    assert cell([0.2, 0.4, 0.6]) == "0.400 [-0.097, 0.897] (3)"
    assert cell([math.nan]) == "-" and cell([12.34]) == "12.3 (1)"
    text = table({"c": {"a": [0.30001], "b": [0.30002], "d": [0.2], "e": []}}, "abde")
    assert text.splitlines()[2:] == [
        "| a | **0.300 (1)** |",
        "| b | **0.300 (1)** |",
        "| d | 0.200 (1) |",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--domains", "modes"], "task 'modes' has no measure of coverage"),
        (
            ["--domains", "arm", "--recipes", "best"],
            "no recipe 'best'; there are: edp, closed form, edp, net",
        ),
        (["--domains", "arm", "--downstream-steps", "0"], "must be at least 1"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, words, said, capsys):
    files = ["--runs", str(tmp_path / "r"), "--out", str(tmp_path / "o")]
    assert cli.main(["study", "exploration", *words, *files]) != 0
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_every_row_has_a_colour_and_a_marker_of_its_own():
    for of in ("color", "marker"):
        assert len({look[of] for look in LOOKS.values()}) == len(LOOKS)
