import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edp_robot.studies import distillation as study
from edp_robot.studies import distillation_measures as measures
from edp_robot.studies.distillation_report import TaskResult, table
from edp_robot.studies.distillation_runs import (
    FETCH,
    STUDENTS,
    TEACHERS,
    Policy,
    Uniform,
    run_folder,
    trainings,
)
from policy_server.bench.statistics import summary
from policy_server.runtime.onnxruntime import OnnxPolicy


def test_energy_distance_of_two_points():
    """X always 0, Y always 3: 2 * 3 - 0 - 0. X half at 0 and half at 1, against itself: by hand."""
    zeros = torch.zeros(2, 4, 1)
    threes = torch.full((2, 5, 1), 3.0)
    assert measures.energy_distance(zeros, threes).tolist() == [6.0, 6.0]
    half = torch.tensor([[[0.0], [1.0]]])  # E|X - Y| = 1/2, E|X - X'| = 1 for two different draws
    assert measures.energy_distance(half, half).item() == pytest.approx(2 * 0.5 - 1 - 1)


def test_energy_distance_of_one_distribution_is_zero_on_average():
    torch.manual_seed(0)
    x = torch.randn(400, 16, 2)
    y = torch.randn(400, 16, 2)
    found = measures.energy_distance(x, y)
    assert abs(found.mean().item()) < 3 * found.std().item() / 20
    assert measures.energy_distance(x, y + 1).mean() > 0.3


def test_uniform_actions_are_uniform():
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    action = Uniform(1)(torch.zeros(20_000, 2), noise)
    assert np.allclose(np.quantile(action, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.03)


def test_interleaving_counts_every_contender():
    calls = {"a": 0, "b": 0}

    def caller(name):
        def call():
            calls[name] += 1

        return call

    samples = measures.interleaved({name: caller(name) for name in calls}, 40, n_rounds=4)
    assert [len(v) for v in samples.values()] == [40, 40]
    assert calls == dict.fromkeys("ab", 20 + 4 * 3 + 40)
    assert all((v > 0).all() for v in samples.values())


def test_runs_that_need_each_other_are_in_different_waves(tmp_path):
    waves = trainings(tmp_path, ("arm-press", "modes", "arm-reach-left"), 3)
    assert [[t.name for t in wave] for wave in waves[:2]] == [
        ["arm", "modes/teacher"],
        ["arm-press/teacher", "arm-reach-left/teacher"],
    ]
    assert len(waves) == 3
    assert len(waves[2]) == 9
    args = waves[1][0].args()
    assert args[args.index("--from") + 1] == str(tmp_path / "arm")
    assert args[args.index("--seed") + 1] == "3"


def test_folders_have_no_colon(tmp_path):
    folder = run_folder(tmp_path, f"{FETCH}/paired")
    assert folder == tmp_path / "gym-FetchReach-v4" / "paired"


def result():
    quality = {
        "random-0": {"mean_return": -50.0},
        "teacher-64": {"mean_return": -2.0},
        "teacher-15": {"mean_return": -10.0},
        "paired-1": {"mean_return": -14.0},
    }
    more = {"success": 0.5, "energy_distance": 0.0123, "return_sem": 2.0}
    times = {"p50": 12.34, "p99": 20.0}
    latency = {"teacher-15 torch": times, "paired-1 torch": times, "paired-1 ONNX Runtime": times}
    measured = {name: {**numbers, **more} for name, numbers in quality.items()}
    return TaskResult([("teacher", 15), ("paired", 1)], measured, latency)


def test_retained_is_counted_from_random_actions():
    """(-14 + 50) / (-10 + 50) = .9; the error is 2 / 40."""
    assert result().retained("paired-1") == pytest.approx(0.9)
    assert result().retained("teacher-15") == 1.0
    assert result().retained_sem("paired-1") == pytest.approx(0.05)


def test_the_table_by_hand():
    head, _, random, *_, teacher, paired = table(result()).splitlines()
    assert head.endswith("| torch p50 / p99 [us] | ONNX Runtime p50 / p99 [us] |")
    assert random.startswith("| random actions | 0 | -50.00 | 0.500 | 0.000 +- 0.050 |")
    assert teacher.endswith("|  |")
    cells = "-14.00 | 0.500 | 0.900 +- 0.050 | 12.30 | 12.3 / 20.0 | 12.3 / 20.0"
    assert paired == f"| paired | 1 | {cells} |"


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    source = SimpleNamespace(spec=SimpleNamespace(name="modes", act_dim=3), n_action_steps=1)
    monkeypatch.setattr(measures, "visited_states", lambda *_: torch.zeros(5, 2))
    found = [Policy("paired", 1, Uniform(3))]

    def measured():
        path = tmp_path / "q.json"
        return measures.Quality(path, source, Uniform(3), episodes=4, seed=0).measure(found)

    first = measured()
    assert set(first) == {"random-0", "teacher-64", "paired-1"}
    assert json.loads((tmp_path / "q.json").read_text()) == first
    monkeypatch.setattr(measures, "evaluate", None)
    assert measured() == first


@pytest.mark.parametrize(
    ("changes", "message"), [({"tasks": ("x",)}, "no task 'x'"), ({"episodes": 0}, "episodes=0")]
)
def test_options_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        study.Options(**changes)


@pytest.mark.slow
def test_the_whole_study_small(tmp_path, monkeypatch):
    """Real processes, one task, the smoke preset. The study runs twice and trains once."""
    small = ("modes/teacher", "clone --task modes --preset smoke")
    monkeypatch.setitem(TEACHERS, "modes", (small,))
    for name, words in list(STUDENTS.items()):
        monkeypatch.setitem(STUDENTS, name, f"{words.split(' --set')[0]} --preset smoke")
    options = study.Options(("modes",), 50, 20, 0, tmp_path / "runs", tmp_path / "out")
    runtimes = {"ONNX Runtime": lambda graph: OnnxPolicy(graph).act}
    for _ in range(2):
        assert study.DistillationStudy(options, "a machine", runtimes, summary)()
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## modes" in text
    assert "| consistency | 4 |" in text
    assert "a machine" in text
    assert (tmp_path / "out" / "return_latency.png").read_bytes()[:4] == b"\x89PNG"
    assert (options.root / "modes" / "paired.log").read_text().count("$ ") == 1
