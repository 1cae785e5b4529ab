import numpy as np
import pytest
from support.moving_robot import plant

from calibration.file import CalibrationError
from calibration.motion.delay import estimate_delay, response
from calibration.motion.excitation import smooth_motion

PERIOD_S = 0.01
DELAYS_S = np.array([0.0, 0.0137, 0.05])


@pytest.fixture(scope="module")
def runs():
    """One command (800, 3) and the motion that follows it after each of DELAYS_S, without noise."""
    command = np.repeat(smooth_motion(800, 1, PERIOD_S, 0.1, np.random.default_rng(2)), 3, axis=1)
    return command, plant(command, PERIOD_S, DELAYS_S)


def noisy(motion, seed, sigma=0.001, quantum=0.0015):
    """Returns the motion with noise and the steps of an encoder."""
    noise = sigma * np.random.default_rng(seed).normal(size=motion.shape)
    return np.round((motion + noise) / quantum) * quantum


@pytest.mark.parametrize("k", [0, 1, 2])
def test_injected_delays_come_back(runs, k):
    command, motion = runs
    clean = estimate_delay(command[:, k], motion[:, k], PERIOD_S)
    assert clean.delay_s == pytest.approx(DELAYS_S[k], abs=0.0003)
    assert clean.natural_hz == pytest.approx(25 / (2 * np.pi), rel=0.02)
    assert clean.damping == pytest.approx(0.8, rel=0.02)
    assert clean.gain == pytest.approx(1, abs=0.01)
    assert clean.explained > 0.999
    assert not clean.warnings
    rough = estimate_delay(command[:, k], noisy(motion[:, k], k), PERIOD_S)
    assert rough.delay_s == pytest.approx(DELAYS_S[k], abs=0.0015)
    assert rough.delay_low_s < rough.delay_s < rough.delay_high_s
    assert rough.delay_high_s - rough.delay_low_s < 0.005


def test_lag_is_delay_plus_response(runs):
    command, motion = runs
    lags = [estimate_delay(command[:, k], noisy(motion[:, k], 5), PERIOD_S).lag_s for k in range(3)]
    np.testing.assert_allclose(np.diff(lags), np.diff(DELAYS_S), atol=0.001)
    # 2 damping / natural = 64 ms at low frequencies, and half a held period
    assert 0.05 < lags[0] < 0.08


def test_the_interval_holds_the_truth_about_as_often_as_it_says(runs):
    command, motion = runs
    estimates = [
        estimate_delay(command[:, 1], noisy(motion[:, 1], seed), PERIOD_S) for seed in range(20)
    ]
    held = sum(e.delay_low_s <= DELAYS_S[1] <= e.delay_high_s for e in estimates)
    assert held >= 15  # 95 % of 20 are 19
    width = np.mean([e.delay_high_s - e.delay_low_s for e in estimates])
    loud = estimate_delay(command[:, 1], noisy(motion[:, 1], 0, sigma=0.01), PERIOD_S)
    assert loud.delay_high_s - loud.delay_low_s > 3 * width


def smooth(t_s):
    return (
        np.sin(2 * np.pi * 0.7 * t_s)
        + 0.6 * np.sin(2 * np.pi * 1.9 * t_s + 1)
        + 0.4 * np.sin(2 * np.pi * 3.1 * t_s + 2)
    )


@pytest.mark.parametrize("shift_s", [0.0137, 0.1, 0.305])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_plain_shift_is_found_below_a_tick_for_either_sign(shift_s, sign):
    """The signal grows, so the peak is found only if each overlap is normalised by itself."""

    def growing(t_s):
        return smooth(t_s) * np.exp(t_s / 2)

    t_s = np.arange(600) * PERIOD_S
    e = estimate_delay(growing(t_s), sign * growing(t_s - shift_s), PERIOD_S)
    assert e.lag_s == pytest.approx(shift_s, abs=0.0006)
    assert e.lag_low_s <= e.lag_s <= e.lag_high_s
    assert e.inverted == (sign < 0) == (e.gain < 0)
    assert e.correlation > 0.99
    assert any("against its command" in text for text in e.warnings) == (sign < 0)


def test_a_motion_before_its_command_gets_a_warning():
    t_s = np.arange(600) * PERIOD_S
    e = estimate_delay(smooth(t_s), smooth(t_s + 0.1), PERIOD_S)
    assert e.lag_s == pytest.approx(-0.1, abs=0.001)
    assert any("leads" in text for text in e.warnings)


def test_dry_friction_does_not_pass_for_delay():
    command = smooth_motion(500, 1, PERIOD_S, 0.1, np.random.default_rng(0))[:, 0]
    x = 0.0
    v = 0.0
    motion = []
    late = np.concatenate([np.zeros(120), np.repeat(command, 40)])  # 30 ms in steps of 0.25 ms
    for i in range(500 * 40):
        if i % 40 == 0:
            motion.append(x)
        acceleration = 900 * (late[i] - x) - 42 * v - 6 * np.tanh(v / 0.005)
        v += 0.00025 * acceleration
        x += 0.00025 * v
    e = estimate_delay(command, np.array(motion), PERIOD_S)
    assert e.delay_s == pytest.approx(0.03, abs=0.003)
    assert e.damping == pytest.approx(0.7, abs=0.05)  # nor for damping
    assert e.explained > 0.998


def test_step_response_equals_a_simulation():
    command = np.r_[np.zeros(3), np.ones(57)][:, None]
    for natural, damping in ((20.0, 0.3), (20.0, 1.0), (20.0, 2.5)):
        theta = np.array([0.025, np.log(natural), np.log(damping)])
        expected = plant(command, PERIOD_S, np.array([0.025]), natural, damping)[:, 0]
        np.testing.assert_allclose(response(command[:, 0], PERIOD_S, theta), expected, atol=2e-3)


def test_unrelated_motion_is_called_weak():
    rng = np.random.default_rng(0)
    a, b = (smooth_motion(800, 1, PERIOD_S, 0.1, rng)[:, 0] for _ in range(2))
    drift = np.arange(800) * PERIOD_S  # a common drift is no likeness
    e = estimate_delay(a + drift, b + drift, PERIOD_S)
    assert e.correlation < 0.5
    assert any("weak correlation" in text for text in e.warnings)


@pytest.mark.parametrize(
    ("command", "measured", "reason"),
    [
        (np.zeros(400), np.arange(400.0), "command never changes"),
        (np.arange(400.0), np.full(400, 2.5), "measured never changes"),
        (np.arange(400.0), np.r_[np.arange(399.0), np.nan], "measured holds 1 values that are not"),
        (np.arange(400.0), np.arange(399.0), r"command has shape \(400,\), measured \(399,\)"),
        (np.arange(90.0), np.arange(90.0), "90 samples are too few, expected 160"),
    ],
)
def test_signals_without_information_are_refused(command, measured, reason):
    with pytest.raises(CalibrationError, match=reason):
        estimate_delay(command, measured, PERIOD_S)


def test_excitation_is_small_smooth_and_ends_at_rest():
    motion = smooth_motion(500, 6, 0.02, 0.1, np.random.default_rng(1))
    assert np.abs(motion).max() == pytest.approx(0.1)
    assert not motion[0].any()
    assert np.abs(motion[-1]).max() < 1e-12
    velocity = np.diff(motion, axis=0) / 0.02
    assert np.abs(velocity).max() < 0.1 * 2 * np.pi * 5  # nothing is faster than 5 Hz
    assert np.abs(np.corrcoef(motion.T) - np.eye(6)).max() < 0.5  # joints move differently
