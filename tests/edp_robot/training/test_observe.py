import numpy as np
import pytest

from edp_robot.training.checkpoint import flatten, unflatten
from edp_robot.training.observe import Observer, make_observer
from sim.core.registry import task_spec


def watch(observer, success, ended, n=2, obs_dim=2):
    """Shows one decision of `n` environments that stay at the origin."""
    place = np.zeros((n, obs_dim))
    observer.observe(place, place[None], np.array(success), np.array(ended))


def test_an_episode_succeeds_once_whenever_it_did():
    observer = Observer(None)
    watch(observer, [True, False], [False, False])
    watch(observer, [False, False], [False, True])
    watch(observer, [True, False], [True, False])
    watch(observer, [False, False], [True, True])
    assert observer.metrics() == {"n_episodes": 4, "n_success_episodes": 1}


def test_an_observer_goes_on_where_it_was():
    first = Observer(None)
    watch(first, [True, False], [False, False])
    second = Observer(None)
    second.load(first.state())
    watch(second, [False, False], [True, True])
    assert second.metrics() == {"n_episodes": 2, "n_success_episodes": 1}


@pytest.mark.parametrize("task", ["arm", "maze-square-a"])
def test_the_task_measures_its_coverage_for_each_seed(task):
    spec = task_spec(task)
    obs = np.zeros((4, spec.obs_dim))
    observer = make_observer(spec, n_seeds=2)
    never = np.zeros(4, bool)
    end = obs.copy()
    end[3] = 0.4  # only an environment of the second seed moves
    path = np.linspace(obs, end, 20)
    observer.observe(obs, path, never, never)
    metrics = observer.metrics()
    assert metrics["coverage/0"] < metrics["coverage/1"]
    assert metrics["coverage"] == (metrics["coverage/0"] + metrics["coverage/1"]) / 2
    again = make_observer(spec, n_seeds=2)
    again.load(unflatten(*flatten(observer.state())))
    assert again.metrics() == metrics


def test_a_task_without_measure_has_no_coverage():
    assert "coverage" not in make_observer(task_spec("modes")).metrics()
