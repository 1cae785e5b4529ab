import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edp_robot.studies import exploration_report as report
from edp_robot.studies.exploration_plots import visit_counts
from edp_robot.studies.exploration_runs import METHODS, PAPER, Job, Result
from sim.tasks.mazes import Maze, task_names


def result(maze, method, coverage, presses=None, runs=Path("none"), **changes):
    task = maze if maze == "arm" else f"maze-square-{maze}"
    n = len(coverage)
    shared = {
        "env_steps": 1_000,
        "grad_steps": 50,
        "wall_s": 30.0,
        "commit": "c",
        "machine": "m",
        "command": "edp p",
    }
    curves = np.array([[c / 2, c] for c in coverage])
    job = Job(runs, task, method, 1_000, n, 0)
    return Result(
        job, np.array(coverage), presses, np.array([500, 1_000]), curves, **{**shared, **changes}
    )


def test_std_is_the_samples():
    """Of .2, .4, .9: mean .5, squares .09 + .01 + .16 = .26, over n - 1 = 2: sqrt(.13) = .3606."""
    assert report.mean_std(np.array([0.2, 0.4, 0.9])) == pytest.approx((0.5, np.sqrt(0.13)))
    assert report.cell(np.array([0.2, 0.4, 0.9])) == "0.50 +- 0.36 (3)"
    assert (
        report.cell(np.array([0.25]), 1) == "0.2 (1)"
        and report.mean_std(np.array([3.0]))[1] is None
    )


def test_the_table_by_hand():
    results = [
        result("a", "edp", [0.8, 0.9], wall_s=40.0),  # 20 s a seed
        result("d", "edp", [0.7, 0.7], wall_s=80.0, grad_steps=70),  # 40 s a seed
        result("a", "random", [0.5, 0.7], env_steps=2_000, grad_steps=0),
        result("arm", "edp", [0.9, 0.9], np.array([1.0, 2.0])),
    ]
    assert report.maze_table(
        ["a", "d", "tree"], ["edp", "rnd", "random"], results
    ).splitlines() == [
        "| method | a | d | tree | env_steps | grad_steps | wall s per seed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| EDP | **0.85 +- 0.07 (2)** | **0.70 +- 0.00 (2)** | - | 1,000 | 50-70 | 30 |",
        "| RND | - | - | - | - | - | - |",
        "| random actions | 0.60 +- 0.14 (2) | - | - | 2,000 | 0 | 15 |",
        "| EDP (paper) | 0.99 +- 0.02 (10) | 0.78 +- 0.01 (10) | 0.91 +- 0.01 (10) | - | - | - |",
        "| cap of the metric | 1.00 | 0.79 | 1.00 | - | - | - |",
    ]


def test_ties_at_the_digits_shown_are_all_bold():
    results = [
        result("a", "edp", [0.801]),
        result("a", "rnd", [0.804]),
        result("a", "random", [0.79]),
    ]
    table = report.maze_table(["a"], ["edp", "rnd", "random"], results)
    assert "| EDP | **0.80 (1)** |" in table and "| RND | **0.80 (1)** |" in table
    assert "| random actions | 0.79 (1) |" in table


def test_the_arm_has_a_table_of_its_own():
    results = [
        result("arm", "edp", [0.4, 0.6], np.array([3.0, 4.0])),
        result("arm", "random", [0.1, 0.1], np.array([5.0, 5.0])),
    ]
    text = report.page(["arm"], ["edp", "random"], results, "edp study exploration", "2026-01-02")
    assert text.splitlines()[2:6] == [
        "| method | coverage | presses | env_steps | grad_steps | wall s per seed |",
        "| --- | --- | --- | --- | --- | --- |",
        "| EDP | **0.50 +- 0.14 (2)** | 3.5 +- 0.7 (2) | 1,000 | 50 | 15 |",
        "| random actions | 0.10 +- 0.00 (2) | **5.0 +- 0.0 (2)** | 1,000 | 50 | 15 |",
    ]
    assert text.endswith(
        "- Machine: m\n- Commit: c\n- Command: `edp study exploration`\n- Written: 2026-01-02\n"
    )
    assert "paper" not in text


def test_the_paper_has_a_figure_for_every_maze():
    assert {f"maze-square-{maze}" for maze in PAPER} == set(task_names())
    assert all(
        mean <= Maze.load(f"square_{maze}").max_coverage for maze, (mean, _) in PAPER.items()
    )


def test_everything_is_written(tmp_path):
    results = [
        result("a", "edp", [0.25, 0.5], runs=tmp_path),
        result("arm", "edp", [0.4], np.array([3.0]), runs=tmp_path),
    ]
    tasks = ["maze-square-a", "maze-square-d", "arm"]
    report.write(tmp_path / "out", tasks, ["edp", "random"], results, "edp study exploration")
    runs = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert [
        (r["task"], r["seed"], r["coverage"], r["presses"], r["n_seeds"], r["wall_s"]) for r in runs
    ] == [
        ("maze-square-a", "0", "0.25", "", "2", "30.0"),
        ("maze-square-a", "1", "0.5", "", "2", "30.0"),
        ("arm", "0", "0.4", "3", "1", "30.0"),
    ]
    curves = list(csv.reader((tmp_path / "out" / "curves.csv").open()))
    assert curves[:3] == [
        ["task", "method", "seed", "env_step", "coverage"],
        ["maze-square-a", "edp", "0", "500", "0.125"],
        ["maze-square-a", "edp", "0", "1000", "0.25"],
    ]
    assert len(curves) == 1 + 2 * 3
    for name in ("coverage.png", "visits.png"):
        assert min(Image.open(io.BytesIO((tmp_path / "out" / name).read_bytes())).size) > 300
    assert set(METHODS) == {"edp", "rnd", "particle", "random"}


def test_visits_are_the_first_seeds(tmp_path, make_run):
    """Maze a has bins of .05 from (-.5, -4.5): (0, 0) lies in bin (10, 90), (0, -1) in (10, 70)."""
    job = Job(tmp_path, "maze-square-a", "edp", 300, 2, 0)
    positions = np.full((3, 4, 2), 0.02, np.float32)  # rows, 2 seeds x 2 environments, (x, y)
    positions[1, 1] = 0.02, -0.98
    positions[:, 2:] = 0.02, -2.98  # the second seed's
    make_run(job, [(0.1,), (0.1,)], positions=positions)
    counts = visit_counts(job.folder / "checkpoint.safetensors", job.task, 2, 0)
    assert counts.shape == (100, 100) and counts.sum() == 6
    assert counts[10, 90] == 5 and counts[10, 70] == 1
