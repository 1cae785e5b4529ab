import numpy as np
import pytest

from sim.tasks.urlb.body import at_least, near


@pytest.mark.parametrize(
    ("at_margin", "expected"), [(0.0, [0, 0, 0.5, 1, 1]), (0.5, [0.25, 0.5, 0.75, 1, 1])]
)
def test_a_reward_falls_in_a_straight_line_below_its_bound(at_margin, expected):
    values = np.array([-1.0, 0.0, 1.0, 2.0, 5.0])
    np.testing.assert_allclose(at_least(values, 2.0, 2.0, at_margin), expected)


def test_a_reward_falls_as_a_gaussian_around_its_bound():
    """.1 at the margin, so .1^(1/4) at half of it and .1^4 at twice."""
    values = near(np.array([-1.0, 0.0, 0.3, 0.6, 1.2]), 0.6)
    np.testing.assert_allclose(values, [1, 1, 0.1**0.25, 0.1, 0.1**4])
