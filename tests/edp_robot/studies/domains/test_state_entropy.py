"""k-NN entropy against densities whose entropy is known, and of a run's replay."""

import numpy as np
import pytest
from support.tiny import tiny_pretrain

from edp_robot.studies.domains.state_entropy import (
    kept_entropy,
    knn_entropy,
    obs_scale,
    run_entropy,
)
from edp_robot.training.pretrain import pretrain


@pytest.mark.parametrize("dim", [1, 3])
def test_the_entropy_of_a_gaussian(dim):
    scale = np.linspace(0.5, 2.0, dim)
    points = np.random.default_rng(0).standard_normal((4_000, dim)) * scale
    exact = dim / 2 * np.log(2 * np.pi * np.e) + np.log(scale).sum()
    assert knn_entropy(points) == pytest.approx(exact, abs=0.06)


def test_the_entropy_of_a_box_and_of_a_larger_one():
    points = np.random.default_rng(1).uniform(0, [2.0, 3.0], (4_000, 2))
    entropy = knn_entropy(points)
    assert entropy == pytest.approx(np.log(6.0), abs=0.06)
    assert knn_entropy(points * [2, 1]) - entropy == pytest.approx(np.log(2), abs=0.05)
    assert knn_entropy(4 * points) - entropy == pytest.approx(2 * np.log(4))


def test_equal_states_have_little_entropy_and_no_infinite_one():
    assert -50 < knn_entropy(np.zeros((100, 2))) < -20


def test_a_runs_states_are_scaled_by_random_actions_and_the_result_is_kept(tmp_path):
    run = tmp_path / "run"
    pretrain(tiny_pretrain(method="random"), str(run))
    scale = obs_scale("arm")
    assert scale.shape == (22,) and (scale > 0).all()
    assert np.isfinite(run_entropy(run, 200)) and np.isnan(run_entropy(run, 10_000))
    assert np.isnan(kept_entropy(run, tmp_path / "kept.json"))  # 320 states
    (tmp_path / "kept.json").write_text('{"n_states": 4000, "nats": 2.5}')
    assert kept_entropy(tmp_path / "none", tmp_path / "kept.json") == 2.5
