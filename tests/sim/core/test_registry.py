import sys

import gymnasium
import pytest

from policy_server.contract.doors.options import with_options
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


ENVIRONMENT = """
import gymnasium
import numpy as np


class Ends(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 9, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, goal=1.0, words=(), up=False):
        self.goal = goal
        self.shown = (goal, words, up)

    def reset(self, *, seed=None, options=None):
        return np.float32([self.goal]), {}

    def step(self, action):
        return np.float32([self.goal]), self.goal, True, False, {}


gymnasium.register("OfTheTest-v0", Ends, max_episode_steps=3)
"""


@pytest.fixture
def module(folder):
    (folder / "env_of_the_test.py").write_text(ENVIRONMENT)
    sys.modules.pop("env_of_the_test", None)
    yield "env_of_the_test"
    gymnasium.registry.pop("OfTheTest-v0", None)
    sys.modules.pop("env_of_the_test", None)


def test_the_saved_name_has_module_and_arguments_and_makes_the_same_environment(module):
    asked = f'gym:{module}:OfTheTest-v0?words=["a b",2]&goal=2.50&up=True'
    saved = task_spec(asked).name
    assert saved == f'gym:{module}:OfTheTest-v0?goal=2.5&up=true&words=["a b",2]'
    assert task_spec(saved).name == saved
    for name in (asked, saved):
        env = make_vec(name, 2)
        assert env.task_spec.name == saved
        assert env.reset()[0].tolist() == [[2.5], [2.5]]
        assert env._envs.envs[0].unwrapped.shown == (2.5, ["a b", 2], True)


@pytest.mark.parametrize("word", ["50%", "a&b=c", "5", "true", "x=1", '["'])
def test_words_keep_what_they_are(module, word):
    name = with_options(f"gym:{module}:OfTheTest-v0", {"words": word, "goal": 3})
    saved = task_spec(name).name
    assert make_vec(saved)._envs.envs[0].unwrapped.shown == (3, word, False)
    assert task_spec(saved).name == saved


def test_an_unknown_argument_is_refused_with_those_that_exist(module):
    with pytest.raises(ValueError, match=r"'gaol'.*\(arguments: goal, words, up\)"):
        task_spec(f"gym:{module}:OfTheTest-v0?gaol=3")


def test_a_task_given_by_path_is_saved_by_path_and_options(folder):
    assert task_spec("task_of_the_test:Mine?sigma=0.50").name == "task_of_the_test:Mine?sigma=0.5"
    assert task_spec("modes").name == "modes"


def test_a_name_out_of_a_file_uses_a_module_that_is_imported_already(module):
    name = f"gym:{module}:OfTheTest-v0?goal=4"
    with pytest.raises(ValueError, match=f"does not import the module '{module}'.*--task"):
        task_spec(name, may_import=False)
    assert module not in sys.modules
    task_spec(name)
    assert task_spec(name, may_import=False).name == name


@pytest.mark.parametrize("value", ["os:system", "/etc/passwd", '["os.system"]', '{"a":"b:c"}'])
def test_a_name_out_of_a_file_names_no_code_in_its_options(module, value):
    name = f"gym:{module}:OfTheTest-v0?words={value}"
    task_spec(name)
    with pytest.raises(ValueError, match="could name code or another file"):
        task_spec(name, may_import=False)
