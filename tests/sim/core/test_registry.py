import sys

import pytest

from sim.core.registry import make_task, make_vec, task_spec

SOURCE = """
from sim.tasks.modes import ModesTask


class Mine(ModesTask):
    def __init__(self, sigma: float = 1.0):
        self.sigma = sigma


def not_a_task():
    raise SystemExit("called")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a task in a file that nothing else names."""
    (tmp_path / "task_of_the_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


def test_a_class_in_a_file_is_a_task_with_options(folder):
    assert make_vec("task_of_the_test:Mine", 3).num_envs == 3
    assert make_task("task_of_the_test:Mine?sigma=0.5").sigma == 0.5


def test_what_makes_no_environments_is_refused_before_it_is_called(folder):
    for name in ("task_of_the_test:not_a_task", "os:system?command=false"):
        with pytest.raises(ValueError, match="expected a class like MakesEnvironments"):
            task_spec(name)


@pytest.mark.parametrize("name", ["task_of_the_test:Mine", "gym:task_of_the_test:Mine-v0"])
def test_a_name_out_of_a_file_imports_nothing(folder, name):
    sys.modules.pop("task_of_the_test", None)
    with pytest.raises(ValueError):
        task_spec(name, may_import=False)
    assert "task_of_the_test" not in sys.modules
