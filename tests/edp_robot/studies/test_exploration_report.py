import csv
from pathlib import Path

import numpy as np
from PIL import Image

from edp_robot.studies import exploration_report as report
from edp_robot.studies.exploration_plots import visit_counts
from edp_robot.studies.exploration_runs import METHODS, PAPER, Pretraining, Result
from sim.tasks.mazes import Maze, task_names


def result(maze, method, coverage, presses=None, runs=Path("none"), **changes):
    task = maze if maze == "arm" else f"maze-square-{maze}"
    costs = {"env_steps": 1_000, "grad_steps": 50, "wall_s": 30.0}
    made = {"commit": "c", "machine": "m", "command": "edp p"}
    return Result(
        job=Pretraining(runs, task, method, 1_000, len(coverage), 0),
        coverage=np.array(coverage),
        presses=presses,
        env_step=np.array([500, 1_000]),
        curves=np.array([[c / 2, c] for c in coverage]),
        **{**costs, **made, **changes},
    )


def test_the_table_by_hand():
    results = [
        result("a", "edp", [0.8, 0.9], wall_s=40.0),  # 20 s for each seed
        result("d", "edp", [0.7, 0.7], wall_s=80.0, grad_steps=70),  # 40 s
        result("a", "random", [0.5, 0.7], env_steps=2_000, grad_steps=0),
        result("arm", "edp", [0.9, 0.9], np.array([1.0, 2.0])),
    ]
    table = report.maze_table(["a", "d", "tree"], ["edp", "rnd", "random"], results)
    assert table.splitlines() == [
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
    assert "| EDP | **0.80 (1)** |" in table
    assert "| RND | **0.80 (1)** |" in table
    assert "| random actions | 0.79 (1) |" in table


def test_the_arm_has_a_table_of_its_own():
    results = [
        result("arm", "edp", [0.4, 0.6], np.array([3.0, 4.0])),
        result("arm", "random", [0.1, 0.1], np.array([5.0, 5.0])),
    ]
    title, table, note = report.tables(["arm"], ["edp", "random"], results)
    assert table.splitlines() == [
        "| method | coverage | presses | env_steps | grad_steps | wall s per seed |",
        "| --- | --- | --- | --- | --- | --- |",
        "| EDP | **0.50 +- 0.14 (2)** | 3.5 +- 0.7 (2) | 1,000 | 50 | 15 |",
        "| random actions | 0.10 +- 0.00 (2) | **5.0 +- 0.0 (2)** | 1,000 | 50 | 15 |",
    ]
    assert "paper" not in title + table + note


def test_the_page_says_how_it_was_made():
    said = report.about([result("a", "edp", [0.5])], "edp study exploration", "2026-01-02")
    assert said.splitlines() == [
        "- Machine: m",
        "- Commit: c",
        "- Command: `edp study exploration`",
        "- Written: 2026-01-02",
    ]


def test_the_paper_has_a_figure_for_every_maze():
    assert {f"maze-square-{maze}" for maze in PAPER} == set(task_names())
    for maze, (mean, _) in PAPER.items():
        assert mean <= Maze.load(f"square_{maze}").max_coverage


def test_everything_is_written(tmp_path):
    results = [
        result("a", "edp", [0.25, 0.5], runs=tmp_path),
        result("arm", "edp", [0.4], np.array([3.0]), runs=tmp_path),
    ]
    tasks = ["maze-square-a", "maze-square-d", "arm"]
    report.write(tmp_path / "out", tasks, ["edp", "random"], results, "edp study exploration")
    runs = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    columns = ("task", "seed", "coverage", "presses", "n_seeds", "wall_s")
    assert [tuple(row[name] for name in columns) for row in runs] == [
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
        assert min(Image.open(tmp_path / "out" / name).size) > 300
    assert set(METHODS) == {"edp", "edp-network", "rnd", "particle", "random"}


def test_visits_are_the_first_seeds(tmp_path, make_run):
    """Maze a has bins of .05 from (-.5, -4.5): (0, 0) lies in bin (10, 90), (0, -1) in (10, 70)."""
    job = Pretraining(tmp_path, "maze-square-a", "edp", 300, 2, 0)
    positions = np.full((3, 4, 2), 0.02, np.float32)  # rows, 2 seeds x 2 environments, (x, y)
    positions[1, 1] = 0.02, -0.98
    positions[:, 2:] = 0.02, -2.98  # the second seed's
    make_run(job, [(0.1,), (0.1,)], positions=positions)
    counts = visit_counts(job.folder / "checkpoint.safetensors", job.task, 2, 0)
    assert counts.shape == (100, 100)
    assert counts.sum() == 6
    assert (counts[10, 90], counts[10, 70]) == (5, 1)
