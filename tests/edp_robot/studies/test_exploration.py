import csv
import json

import pytest

from edp_robot import cli
from edp_robot.studies import jobs
from edp_robot.studies.exploration import Options
from edp_robot.studies.exploration_runs import Pretraining, collect
from edp_robot.studies.study import Study


def options(tmp_path, **changes):
    given = {"mazes": ("a",), "methods": ("edp", "random"), "n_seeds": 2, **changes}
    return Options(runs=tmp_path / "runs", out=tmp_path / "out", **given)


def test_jobs_are_random_actions_first_and_the_arm_has_its_own_length(tmp_path):
    jobs = options(tmp_path, mazes=("a", "maze-square-tree", "a"), arm=True, env_steps=500).jobs()
    assert [(j.task.removeprefix("maze-square-"), j.method, j.env_steps) for j in jobs] == [
        ("a", "random", 500),
        ("tree", "random", 500),
        ("arm", "random", 64_000),
        ("a", "edp", 500),
        ("tree", "edp", 500),
        ("arm", "edp", 64_000),
    ]


def test_a_jobs_arguments_are_those_of_pretrain(tmp_path):
    job = Pretraining(tmp_path, "maze-square-d", "rnd", 500, 4, 9)
    base = str(tmp_path / "maze-square-d" / "rnd")
    said = "pretrain --task maze-square-d --method rnd --env-steps=500 --n-seeds=4 --seed=9"
    assert job.args() == [*said.split(), "--out", base, "--json", f"{base}.json", "--resume"]


def test_collecting_reads_every_seeds_curve(tmp_path, make_run):
    job = Pretraining(tmp_path, "arm", "edp", 300, 2, 0)
    make_run(job, [(0.1, 0.2, 0.4), (0.1, 0.3, 0.5)], wall_s=12.5, presses=(3, 5))
    job.note("a machine")
    result = collect(job)
    assert result.env_step.tolist() == [100, 200, 300]
    assert result.curves.tolist() == [[0.1, 0.2, 0.4], [0.1, 0.3, 0.5]]
    assert result.presses is not None and result.presses.tolist() == [3, 5]
    assert result.coverage.tolist() == [0.4, 0.5]
    assert (result.env_steps, result.grad_steps, result.wall_s) == (300, 7, 12.5)
    assert (result.commit, result.machine) == ("abc123", "a machine")
    assert result.command == f"edp {' '.join(job.args())}"


def test_a_seed_without_rows_is_an_error(tmp_path, make_run):
    job = Pretraining(tmp_path, "maze-square-a", "edp", 300, 2, 0)
    make_run(job, [(0.1, 0.2), (0.1, 0.3, 0.5)])
    with pytest.raises(ValueError, match="coverage/k for each of 2 seeds"):
        collect(job)
    job.result_path.write_text('{"env_steps": 300, "n_seeds": 2}')
    with pytest.raises(ValueError, match="lacks grad_steps, wall_s; delete it"):
        collect(job)


def test_finished_runs_are_not_made_again(tmp_path, make_run, ended, capsys):
    o = options(tmp_path, arm=True)
    started = []
    first, *others = o.jobs()
    make_run(first, [(0.1, 0.2), (0.1, 0.4)])

    def start(job):
        started.append(job)
        make_run(job, [(0.2, 0.6), (0.2, 0.8)], presses=(1, 2))
        return ended()

    assert Study(o, "here", start)() is True
    assert started == others
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "maze-square-a, random: coverage 0.30 +- 0.14 (2), 60 s, 1/4 done"
    assert said[-1] == "arm, edp: coverage 0.70 +- 0.14 (2), presses 1.5 +- 0.7 (2), 60 s, 4/4 done"
    assert Study(o, "here", lambda job: pytest.fail("started again"))() is True


def test_tables_are_rewritten_after_every_run(tmp_path, make_run, ended):
    o = options(tmp_path)
    seen = []

    def start(job):
        table = o.out / "runs.csv"
        seen.append(len(list(csv.DictReader(table.open()))) if table.exists() else 0)
        make_run(job, [(0.1, 0.2), (0.1, 0.4)])
        return ended()

    Study(o, "here", start)()
    assert seen == [0, 2]
    assert len(list(csv.DictReader((o.out / "runs.csv").open()))) == 4


def test_a_failed_run_is_reported_and_the_others_go_on(
    tmp_path, make_run, ended, monkeypatch, capsys
):
    """rnd fails, random ends well and leaves no result, edp is complete."""

    def start(job, threads):
        if job.method == "edp":
            make_run(job, [(0.1, 0.2)])
        return ended(3 if job.method == "rnd" else 0)

    monkeypatch.setattr(Pretraining, "start", start)
    words = ["--mazes", "a", "--methods", "rnd", "random", "edp", "--n-seeds", "1"]
    files = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert cli.main(["study", "exploration", *words, *files]) == 1
    said = capsys.readouterr().out
    folder = tmp_path / "runs" / "maze-square-a"
    assert "2 of 3 runs failed:" in said
    assert f"maze-square-a, rnd: ended with status 3; log: {folder / 'rnd.log'}" in said
    assert f"maze-square-a, random: ended without writing {folder / 'random.json'}" in said
    assert "maze-square-a, edp: coverage 0.20 (1), 60 s, 1/3 done" in said
    assert "| EDP | **0.20 (1)** |" in (tmp_path / "out" / "table.md").read_text()


def test_a_part_of_a_result_counts_as_none(tmp_path, make_run):
    job = Pretraining(tmp_path, "maze-square-a", "edp", 300, 1, 0)
    make_run(job, [(0.1, 0.2)])
    assert job.finished()
    job.result_path.write_text('{"env_steps": 3')
    assert not job.finished()


def test_other_options_for_the_same_runs_are_refused(tmp_path, make_run):
    o = options(tmp_path)
    for job in o.jobs():
        make_run(job, [(0.1, 0.2), (0.1, 0.4)])
        job.note("here")
    message = "was made with --n-seeds 2, and --n-seeds 5 is asked now; choose another --runs"
    with pytest.raises(ValueError, match=message):
        Study(options(tmp_path, n_seeds=5), "here")


def test_the_network_has_a_row_of_its_own(tmp_path):
    options = Options(mazes=("a",), methods=("edp", "edp-network"), runs=tmp_path)
    closed, network = options.jobs()
    assert (closed.name, network.name) == ("edp", "edp-network")
    assert network.words()[:5] == ["pretrain", "--task", "maze-square-a", "--method", "edp"]
    assert "score_reward.estimator=antithetic" in network.words()
    assert not closed.settings


def test_unknown_names_list_those_that_exist(tmp_path, capsys):
    files = ["--runs", str(tmp_path / "r"), "--out", str(tmp_path / "o")]
    assert cli.main(["study", "exploration", "--mazes", "a", "z", *files]) == 1
    assert "no maze 'z'; there are: a, b, c, d, tree, bottleneck, large" in capsys.readouterr().err
    assert cli.main(["study", "exploration", "--methods", "edpp", *files]) == 1
    assert (
        "no method 'edpp'; there are: edp, edp-network, rnd, particle, random"
        in capsys.readouterr().err
    )
    assert cli.main(["study", "exploration", "--n-seeds", "0", *files]) == 1
    assert "n_seeds=0: must be at least 1" in capsys.readouterr().err
    assert cli.main(["study", "exploration", "--mazes", "--no-arm", *files]) == 1
    assert "nothing to run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_started_run_says_how_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "EDP", ["echo"])
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    study = Study(options(tmp_path, env_steps=300, seed=1, processes=2), "a machine")
    job = study.jobs[-1]
    assert study.start(job).wait() == 0
    made = json.loads(job.made_path.read_text())
    assert (made["env_steps"], made["n_seeds"], made["seed"]) == (300, 2, 1)
    assert made["machine"] == "a machine; 3 threads a run, --processes 2"
    assert job.log_path.read_text().splitlines()[-1] == " ".join(job.args())
