from dataclasses import replace

import pytest

from edp_robot import cli
from edp_robot.studies import ablation, exploration, study
from edp_robot.studies.study_options import check_names, command_line


def ablation_options(folder):
    files = {"runs": folder / "r", "out": folder / "o"}
    return ablation.Options(("tree",), ("default", "iid"), 5, 700, 3, processes=2, **files)


def exploration_options(folder):
    files = {"runs": folder / "r", "out": folder / "o"}
    return exploration.Options(("b", "large"), ("edp",), seed=4, arm=True, **files)


def test_the_command_is_read_back_as_the_same_options(tmp_path, monkeypatch):
    read = []

    class Reads:
        def __init__(self, options, machine):
            read.append(options)

        def __call__(self):
            return True

    monkeypatch.setattr(study, "Study", Reads)
    asked = exploration_options(tmp_path)
    for name, options in (
        ("ablation", ablation_options(tmp_path)),
        ("exploration", asked),
        ("exploration", replace(asked, mazes=(), arm_env_steps=7)),
    ):
        assert cli.main(command_line(name, options).split()[1:]) == 0
        assert read.pop() == options


def test_paths_with_spaces_are_quoted(tmp_path):
    options = replace(ablation_options(tmp_path), out=tmp_path / "my results")
    assert f"--out '{tmp_path / 'my results'}'" in command_line("ablation", options)


def test_unknown_names_are_listed_with_those_that_exist():
    check_names("maze", ("a", "b"), ["a", "b", "c"])
    with pytest.raises(ValueError, match="no maze 'x', 'y'; there are: a, b"):
        check_names("maze", ("a", "x", "y"), ["a", "b"])


def test_counts_are_positive(tmp_path):
    options = ablation_options(tmp_path)
    for name, value in (("processes", 0), ("env_steps", -1), ("n_seeds", 1), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}={value}: (must be at least 1|give )"):
            replace(options, **{name: value})
