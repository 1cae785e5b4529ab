import numpy as np
import pytest

from edp_robot.training.checkpoint import flatten, unflatten
from edp_robot.training.observe import Decision, Observer, make_observer
from sim.core.coverage import SeveralCoverages
from sim.core.registry import task_spec
from sim.core.spec import Part, tile
from sim.core.subspaces import grid_coverage, pattern_coverage


def watch(observer, success, ended, reward=(0.0, 0.0)):
    """Shows one decision of two environments that stay at the origin."""
    place = np.zeros((2, 2))
    said = None if success is None else np.array(success)
    observer.observe(Decision(place, place[None], np.array(reward), said, np.array(ended)))


def test_an_episode_succeeds_once_whenever_it_did():
    observer = Observer(None)
    watch(observer, [True, False], [False, False])
    watch(observer, [False, False], [False, True])
    watch(observer, [True, False], [True, False])
    watch(observer, [False, False], [True, True])
    assert observer.metrics() == {"n_episodes": 4, "n_success_episodes": 1, "episode_return": 0}


def test_returns_are_the_sums_of_whole_episodes():
    observer = Observer(None)
    watch(observer, None, [False, True], reward=(1.0, 10.0))
    assert observer.metrics() == {"n_episodes": 1, "episode_return": 10}
    watch(observer, None, [True, True], reward=(2.0, 20.0))
    expected = {"n_episodes": 3, "episode_return": (10 + 3 + 20) / 3}
    assert observer.metrics() == expected  # success is not reported, and not 0


def test_what_is_forgotten_counts_in_no_episode():
    observer = Observer(None)
    watch(observer, [True, True], [False, False], reward=(5.0, 5.0))
    observer.forget()
    watch(observer, [False, False], [True, True], reward=(1.0, 1.0))
    counts = {"n_episodes": 2, "n_success_episodes": 0, "episode_return": 1}
    assert observer.metrics() == counts


def test_an_observer_goes_on_where_it_was():
    first = Observer(None)
    watch(first, [True, False], [False, False])
    second = Observer(None)
    second.load(unflatten(*flatten(first.state())))
    for observer in (first, second):
        watch(observer, [False, False], [True, True], reward=(1.0, 2.0))
    assert second.metrics() == first.metrics()
    assert second.metrics()["n_success_episodes"] == 1


def test_an_older_observer_has_no_returns():
    first = Observer(None)
    watch(first, [True, False], [False, True])
    old = {name: first.state()[name] for name in ("n_episodes", "n_success", "now")}
    second = Observer(None)
    second.load(old)
    watch(second, [False, False], [True, True], reward=(1.0, 2.0))
    counts = {"n_episodes": 3, "n_success_episodes": 1, "episode_return": 1.5}
    assert second.metrics() == counts


@pytest.mark.parametrize("task", ["arm", "maze-square-a"])
def test_the_task_measures_its_coverage_for_each_seed(task):
    spec = task_spec(task)
    obs = np.zeros((4, spec.obs_dim))
    observer = make_observer(spec, n_seeds=2)
    never = np.zeros(4, bool)
    end = obs.copy()
    end[3] = 0.4  # only an environment of the second seed moves
    path = np.linspace(obs, end, 20)
    observer.observe(Decision(obs, path, np.zeros(4), None, never))
    metrics = observer.metrics()
    assert metrics["coverage/0"] < metrics["coverage/1"]
    assert metrics["coverage"] == (metrics["coverage/0"] + metrics["coverage/1"]) / 2
    again = make_observer(spec, n_seeds=2)
    again.load(unflatten(*flatten(observer.state())))
    assert again.metrics() == metrics


def test_explored_numbers_are_counted_instead_of_the_obs():
    fields = tile(Part("x", "m", 0.0, 4.0), Part("contact", "1", [0.0, 0.0], [1.0, 1.0]))
    explored = np.zeros((3, 2, 3))
    explored[:, 1] = [[1.5, 0, 0], [2.5, 1, 0], [2.5, 1, 1]]
    nothing = np.zeros(2)
    seen = Decision(nothing[:, None], np.zeros((3, 2, 1)), nothing, None, nothing > 0, explored)
    counted = []
    for part in seen.split(2):
        measures = {
            "coverage_x": grid_coverage(fields, {"x": 4}),
            "n_contacts": pattern_coverage(fields, "contact"),
        }
        observer = Observer(SeveralCoverages(measures))
        observer.observe(part)
        counted.append(observer.metrics())
    assert counted[0] == {"coverage": 1 / 4, "coverage_x": 1 / 4, "n_contacts": 1, "n_episodes": 0}
    assert counted[1] == {"coverage": 2 / 4, "coverage_x": 2 / 4, "n_contacts": 3, "n_episodes": 0}


def test_a_task_without_measure_has_no_coverage():
    assert "coverage" not in make_observer(task_spec("modes")).metrics()
