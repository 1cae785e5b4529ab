import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policy_server.contract.bundle import Bundle
from policy_server.control.limiter import Intervention, Limiter

INF = float("inf")


def limiter(start=None):
    """A limiter with limits [-1, 1] and [0, inf), and steps of 0.5 and any size."""
    limiter = Limiter(low=[-1, 0], high=[1, INF], max_rate=[5, INF], control_period_s=0.1)
    if start is not None:
        limiter.reset(np.array(start))
    return limiter


def test_inside_every_limit_nothing_changes():
    safe, flags = limiter([0.0, 1.0]).apply(np.array([0.4, 7.0]))
    assert safe.tolist() == [0.4, 7.0] and flags == Intervention.NONE


def test_hand_computed_sequence():
    unit = limiter([0.0, 1.0])
    for target, expected, flags in (
        ([3.0, 2.0], [0.5, 2.0], Intervention.POSITION | Intervention.VELOCITY),
        ([3.0, -4.0], [1.0, 0.0], Intervention.POSITION),
        ([0.0, 0.0], [0.5, 0.0], Intervention.VELOCITY),
        ([0.0, 0.0], [0.0, 0.0], Intervention.NONE),
        ([0.25, np.nan], [0.0, 0.0], Intervention.NOT_FINITE),
        ([INF, 3.0], [0.0, 0.0], Intervention.NOT_FINITE),
        ([-0.25, 3.0], [-0.25, 3.0], Intervention.NONE),
    ):
        safe, seen = unit.apply(np.array(target))
        assert (safe.tolist(), seen) == (expected, flags)
    assert unit.counts == {"not_finite": 2, "position": 2, "velocity": 2}


def test_a_robot_outside_its_limits_is_led_back_without_a_jump():
    unit = limiter([2.2, 0.0])
    path = [unit.apply(np.array([0.9, 0.0]))[0][0] for _ in range(4)]
    np.testing.assert_allclose(path, [1.7, 1.2, 0.9, 0.9])


def test_the_first_target_cannot_jump():
    safe, flags = limiter([-1.0, 0.0]).apply(np.array([1.0, 0.0]))
    assert safe.tolist() == [-0.5, 0.0] and flags == Intervention.VELOCITY


@pytest.mark.parametrize("start", [[0.0], [np.nan, 0.0], [0.0, INF]])
def test_an_unusable_start_is_refused(start):
    with pytest.raises(ValueError, match="expected 2 finite numbers"):
        limiter(start)


def test_a_target_before_the_start_is_refused():
    with pytest.raises(ValueError, match="call reset"):
        limiter().apply(np.zeros(2))


def test_the_answer_is_a_copy():
    unit = limiter([0.0, 0.0])
    safe, _ = unit.apply(np.zeros(2))
    safe[0] = 99
    assert unit.last.tolist() == [0, 0]


@pytest.mark.parametrize(
    "limits",
    [
        ([0], [1, 1], [1, 1], 1),
        ([2], [1], [1], 1),
        ([0], [1], [0], 1),
        ([np.nan], [1], [1], 1),
        ([0], [1], [1], 0),
    ],
)
def test_senseless_limits_are_refused(limits):
    with pytest.raises(ValueError, match="expected"):
        Limiter(*limits)


def test_limits_come_from_the_manifest_at_the_loops_period(bundle_path):
    manifest = Bundle.load(bundle_path).manifest
    for period_s, expected in ((None, 0.05), (0.02, 0.1)):
        unit = Limiter.from_manifest(manifest, period_s)
        unit.reset(np.zeros(2))
        safe, _ = unit.apply(np.array([5.0, 5.0]))
        np.testing.assert_allclose(safe, [expected, 0.9], atol=1e-7)


@given(
    st.lists(
        arrays(np.float64, 2, elements=st.floats(-1e9, 1e9) | st.just(np.nan)),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_comes_limits_hold(targets):
    unit = limiter([0.3, 0.3])
    last = np.array([0.3, 0.3])
    for target in targets:
        safe, _ = unit.apply(target)
        assert np.isfinite(safe).all() and -1 <= safe[0] <= 1 and safe[1] >= 0
        assert abs(safe[0] - last[0]) <= 0.5 + 1e-12
        last = safe


def test_float32_rounding_at_the_limit_is_clamped_but_not_counted():
    unit = Limiter(low=[-2.0], high=[2.0], max_rate=[3.0], control_period_s=0.01)
    unit.reset(np.array([1.0]))
    safe, flags = unit.apply(np.array([1.0 + 0.03 + 5e-7]))
    assert safe[0] == 1.0 + 0.03 and not flags and unit.counts["velocity"] == 0
    _, flags = unit.apply(np.array([safe[0] + 0.03 + 5e-6]))
    assert flags and unit.counts["velocity"] == 1


def test_after_a_lost_target_the_next_is_near_to_both():
    """The robot has 0 or 0.5, so -0.5 is too far from one of them and 1 from the other."""
    for wanted, expected in ((1.0, 0.5), (-1.0, 0.0), (0.25, 0.25)):
        unit = limiter([0.0, 0.0])
        unit.apply(np.array([1.0, 0.0]))
        unit.lose()
        assert unit.last.tolist() == [0.0, 0.0]
        safe, _ = unit.apply(np.array([wanted, 0.0]))
        assert safe[0] == expected


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1, max_size=30))
def test_whatever_is_lost_no_target_is_far_from_any_that_the_robot_may_have(targets):
    unit = limiter([0.0, 0.0])
    possible = {0.0}
    for target, is_lost in targets:
        safe, _ = unit.apply(np.array([target, 0.0]))
        assert max(abs(safe[0] - has) for has in possible) <= 0.5 + 1e-12
        possible = possible | {safe[0]} if is_lost else {safe[0]}
        if is_lost:
            unit.lose()


def test_without_a_rate_the_first_targets_leave_the_start_in_equal_steps():
    """The second number has no rate. The first has one, which lets its range pass in 20."""
    unit = Limiter(low=[-1, 0], high=[1, INF], max_rate=[1, INF], control_period_s=0.1, n_start=4)
    unit.reset(np.array([0.0, 1.0]))
    path = [unit.apply(np.array([1.0, 9.0]))[0].tolist() for _ in range(5)]
    expected = [[0.1, 3.0], [0.2, 5.0], [0.3, 7.0], [0.4, 9.0], [0.5, 9.0]]
    np.testing.assert_allclose(path, expected)
    unit.reset(np.array([0.0, 1.0]))
    assert unit.apply(np.array([1.0, 9.0]))[0].tolist() == [0.1, 3.0]


@pytest.mark.parametrize("rate", [20, 100, 179, 180, 1e9, INF])
def test_no_rate_makes_the_first_target_a_jump(rate):
    """From one limit to the other, a range of 1.8 in periods of 0.01 s: at most a tenth at once."""
    unit = Limiter(low=[-0.9], high=[0.9], max_rate=[rate], control_period_s=0.01, n_start=100)
    unit.reset(np.array([-0.9]))
    steps = np.diff([-0.9, *(unit.apply(np.array([0.9]))[0][0] for _ in range(100))])
    assert steps[0] <= 0.018 + 1e-9 and steps.sum() == pytest.approx(1.8)
