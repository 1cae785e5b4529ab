"""How late does a motion follow its command? Estimates from recorded signals.

There are two answers, and both are reported.

- `lag_s` is the shift at which the measured velocity resembles the commanded one most (peak of the
  normalised cross-correlation). It holds everything: the transport delay, the half period by which
  a held command is late on average, and the time in which the actuator follows. It is what a person
  sees.
- `delay_s` is the transport delay alone. The actuator is modelled as gain / (1 + 2 zeta s / w + s^2
  / w^2). Its input is the command as it is really given: held until the next tick, and `delay_s`
  later. Delay, w and zeta are fitted together to the positions (output error). A least-squares ARX
  scan would be simpler, but encoder noise biases it. A response that is not of second order (a
  position filter, slack, strong friction) still ends up partly in `delay_s`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from calibration.file import CalibrationError

N_BLOCKS = 10  # parts of a recording that count as independent of each other
T_QUANTILE = 2.262  # 97.5 % of Student's t with N_BLOCKS - 1 degrees of freedom
MIN_SAMPLES = 100
WEAK_CORRELATION = 0.5
WEAK_FIT = 0.8
MAX_NATURAL_RAD_S = 1000.0
N_FITS = 4  # the best starting points, each refined


@dataclass(frozen=True)
class DelayAndLag:
    """Delay and lag; low and high bound 95 % intervals of noise, not of model errors.

    Attributes:
        delay_s: Transport delay [s]. Zero within its interval means that there is none.
        delay_low_s: Lower bound of the delay [s].
        delay_high_s: Upper bound of the delay [s].
        lag_s: Shift of the best match, transport and response together [s].
        lag_low_s: Lower bound of the lag [s].
        lag_high_s: Upper bound of the lag [s].
    """

    delay_s: float
    delay_low_s: float
    delay_high_s: float
    lag_s: float
    lag_low_s: float
    lag_high_s: float


@dataclass(frozen=True)
class DelayEstimate(DelayAndLag):
    """Delay and lag of one joint, and its response.

    Attributes:
        correlation: Correlation of the velocities at the lag, in [0, 1].
        inverted: The joint moves against its command; delay and lag are those of the negation.
        explained: Share of the motion's variance that the fitted response explains.
        natural_hz: Natural frequency of the response [Hz].
        damping: Damping ratio of the response.
        gain: Motion per command; negative where inverted.
        warnings: What makes the numbers doubtful, in words.
    """

    correlation: float
    inverted: bool
    explained: float
    natural_hz: float
    damping: float
    gain: float
    warnings: tuple[str, ...] = ()


class Lag(NamedTuple):
    """Shift of the best match [ticks], its 95 % interval, and the signed correlation there."""

    ticks: float
    low: float
    high: float
    correlation: float


class Fit(NamedTuple):
    """A fitted response.

    Attributes:
        theta: Delay [s], log natural frequency [rad/s], log damping ratio.
        half_s: Half the delay's 95 % interval [s].
        gain: Motion per command.
        explained: Share of the motion's variance that the response explains.
    """

    theta: np.ndarray
    half_s: float
    gain: float
    explained: float


def estimate_delay(
    command: np.ndarray, measured: np.ndarray, period_s: float, max_delay_s: float = 0.4
) -> DelayEstimate:
    """Returns delay and lag between a command and the motion that it caused.

    Args:
        command: (n,) positions commanded at ticks `period_s` apart, each held until the next.
        measured: (n,) positions read at the same ticks, each just before the tick's command.
        period_s: Time between ticks [s].
        max_delay_s: Longest lag to look for [s].

    Raises:
        CalibrationError: The shapes differ, there are too few samples, a value is not finite, or a
            signal does not move.
    """
    command = np.asarray(command, float)
    measured = np.asarray(measured, float)
    max_lag = _check(command, measured, period_s, max_delay_s)
    lag = _lag(command, measured, max_lag)
    fit = _fit(command, measured, period_s, lag.ticks * period_s, max_delay_s)
    delay_s, log_natural, log_damping = fit.theta.tolist()
    return DelayEstimate(
        delay_s=delay_s,
        delay_low_s=delay_s - fit.half_s,
        delay_high_s=delay_s + fit.half_s,
        lag_s=lag.ticks * period_s,
        lag_low_s=lag.low * period_s,
        lag_high_s=lag.high * period_s,
        correlation=abs(lag.correlation),
        inverted=lag.correlation < 0,
        explained=fit.explained,
        natural_hz=float(np.exp(log_natural) / (2 * np.pi)),
        damping=float(np.exp(log_damping)),
        gain=fit.gain,
        warnings=_warnings(lag, fit, max_lag, period_s),
    )


def n_needed(period_s: float, max_delay_s: float) -> int:
    """Returns how many samples an estimate needs."""
    return max(MIN_SAMPLES, 4 * math.ceil(max_delay_s / period_s))


def _check(command: np.ndarray, measured: np.ndarray, period_s: float, max_delay_s: float) -> int:
    """Returns the longest lag to look for [ticks], after checking the signals."""
    if command.ndim != 1 or command.shape != measured.shape:
        raise CalibrationError(
            f"command has shape {command.shape}, measured {measured.shape}; expected both (n,)"
        )
    if not (np.isfinite(period_s) and period_s > 0):
        raise CalibrationError(f"period_s is {period_s}, expected a positive number of seconds")
    for name, signal in (("command", command), ("measured", measured)):
        n_bad = np.sum(~np.isfinite(signal))
        if n_bad:
            raise CalibrationError(f"{name} holds {n_bad} values that are not finite")
        if np.ptp(signal) < 1e-9:
            raise CalibrationError(
                f"{name} never changes, so nothing can be compared; does this joint move?"
            )
    max_lag = int(np.ceil(max_delay_s / period_s))
    needed = n_needed(period_s, max_delay_s)
    if len(command) < needed:
        raise CalibrationError(
            f"{len(command)} samples are too few, expected {needed} or more; record for longer"
        )
    return max_lag


def _warnings(lag: Lag, fit: Fit, max_lag: int, period_s: float) -> tuple[str, ...]:
    """Returns in words what makes an estimate doubtful."""
    r = abs(lag.correlation)
    leads = lag.ticks < 0 or fit.theta[0] + fit.half_s < -period_s / 2
    at_the_edge = abs(lag.ticks) >= max_lag - 1
    doubts = {
        f"weak correlation ({r:.2f}): the motion hardly follows the command": r < WEAK_CORRELATION,
        f"the response explains only {fit.explained:.0%} of the motion": fit.explained < WEAK_FIT,
        "the best lag lies at the edge of the search: raise max_delay_s": at_the_edge,
        "the motion leads the command: are the two recorded on one clock?": leads,
        "the joint moves against its command: check its calibration's sign": lag.correlation < 0,
    }
    return tuple(text for text, holds in doubts.items() if holds)


# --- lag: normalised cross-correlation of velocities


def _lag(command: np.ndarray, measured: np.ndarray, max_lag: int) -> Lag:
    """Returns the best lag with its interval (block bootstrap)."""
    lags = np.arange(-max_lag, max_lag + 1)
    sums = _block_sums(_velocity(command), _velocity(measured), lags)
    ticks, correlation = _peaks(sums.sum(axis=0, keepdims=True), lags)
    rng = np.random.default_rng(0)
    picks = rng.multinomial(N_BLOCKS, np.full(N_BLOCKS, 1 / N_BLOCKS), size=400)
    resampled, _ = _peaks(np.einsum("rb,bks->rks", picks, sums), lags)
    low, high = np.quantile(resampled, [0.025, 0.975])
    best = float(ticks[0])
    return Lag(best, float(min(low, best)), float(max(high, best)), float(correlation[0]))


def _smoothed(signal: np.ndarray, mode: Literal["same", "valid"]) -> np.ndarray:
    """Returns a signal under a window of five ticks, which shifts nothing."""
    window = np.hanning(7)[1:-1]
    return np.convolve(signal, window / window.sum(), mode=mode)


def _velocity(position: np.ndarray) -> np.ndarray:
    """Returns smoothed differences per tick; the same for both signals, so it shifts nothing."""
    return _smoothed(np.diff(position), "valid")


def _block_sums(a: np.ndarray, b: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns sums of a*b, a*a, b*b over each block of each overlap, (N_BLOCKS, n_lags, 3).

    The mean of each overlap is removed first.
    """
    n = len(a)
    sums = np.empty((N_BLOCKS, len(lags), 3))
    for k, lag in enumerate(lags):
        x = a[max(0, -lag) : n - max(0, lag)]
        y = b[max(0, lag) : n + min(0, lag)]
        x = x - x.mean()
        y = y - y.mean()
        starts = np.linspace(0, len(x), N_BLOCKS, endpoint=False).astype(int)
        sums[:, k] = np.add.reduceat(np.stack([x * y, x * x, y * y], axis=1), starts)
    return sums


def _peaks(sums: np.ndarray, lags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lags (r,) and values (r,) of the largest |correlation|, for sums (r, n_lags, 3).

    A parabola through the peak and its neighbours gives the lag below a tick.
    """
    corr = sums[..., 0] / np.sqrt(np.maximum(sums[..., 1] * sums[..., 2], 1e-300))
    row = np.arange(len(corr))
    at = np.abs(corr).argmax(axis=1)
    inner = np.clip(at, 1, len(lags) - 2)
    left, mid, right = (np.abs(corr[row, inner + i]) for i in (-1, 0, 1))
    bend = left - 2 * mid + right
    is_peak = (bend < 0) & (at == inner)
    shift = np.where(is_peak, 0.5 * (left - right) / np.where(is_peak, bend, -1.0), 0.0)
    return lags[at] + shift, corr[row, at]


# --- delay: second-order response, fitted by output error


def response(command: np.ndarray, period_s: float, theta: np.ndarray) -> np.ndarray:
    """Returns the unit-gain motion (n,) of a held command, measured from its first value.

    Args:
        command: (n,) held from tick to tick; before the first tick it was `command[0]`.
        period_s: Time between ticks [s].
        theta: Delay [s], log natural frequency [rad/s], log damping ratio.
    """
    n = len(command)
    steps = np.diff(command, prepend=command[0])
    size = 1 << (2 * n - 1).bit_length()
    kernel = _step_response(np.arange(n) * period_s - theta[0], np.exp(theta[1]), np.exp(theta[2]))
    return np.fft.irfft(np.fft.rfft(steps, size) * np.fft.rfft(kernel, size), size)[:n]


def _step_response(t_s: np.ndarray, natural: float, damping: float) -> np.ndarray:
    """Returns the unit step response at `t_s` (n,) [s], zero before t = 0."""
    root = np.sqrt(complex(damping**2 - 1.0))
    root = root if abs(root) > 1e-4 else 1e-4  # at a damping of 1, p - q would be 0
    p = natural * (-damping + root)
    q = natural * (-damping - root)
    t = np.maximum(t_s, 0.0)
    return np.where(t_s > 0, (1 + (q * np.exp(p * t) - p * np.exp(q * t)) / (p - q)).real, 0.0)


def _fit(
    command: np.ndarray, measured: np.ndarray, period_s: float, lag_s: float, max_delay_s: float
) -> Fit:
    """Returns the response that explains `measured` best."""
    from scipy.optimize import least_squares

    n_skipped = min(int(0.5 / period_s), len(command) // 10)  # a motion from before has decayed
    motion = measured[n_skipped:]
    low = np.array([-2 * period_s, np.log(1.0), np.log(0.05)])
    high = np.array([max_delay_s, np.log(MAX_NATURAL_RAD_S), np.log(20.0)])
    drag = _direction(measured)

    def columns(theta: np.ndarray) -> np.ndarray:
        # Friction acts at once, and the direction of motion is known around a tick, not before it.
        undelayed = np.array([-period_s / 2, *theta[1:]])
        parts = (response(command, period_s, theta), response(drag, period_s, undelayed))
        return np.stack([part[n_skipped:] for part in parts], axis=1)

    def residual(theta: np.ndarray) -> np.ndarray:
        return _project(columns(theta), motion)[1]

    starts = _starts(lag_s, period_s, low, high)
    starts.sort(key=lambda theta: float(np.sum(residual(theta) ** 2)))
    fits = [
        least_squares(residual, theta, jac="3-point", bounds=(low, high), x_scale="jac")
        for theta in starts[:N_FITS]
    ]
    best = min(fits, key=lambda fit: fit.cost)
    gain, rest = _project(columns(best.x), motion)
    explained = 1.0 - float(np.sum(rest**2) / np.sum((motion - motion.mean()) ** 2))
    return Fit(best.x, _half_interval(best.jac, rest), gain, explained)


def _starts(lag_s: float, period_s: float, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """Returns starting points whose delay and response add up to the lag."""
    starts = []
    for share in (0.0, 0.25, 0.5, 0.75, 0.95):
        for damping in (0.4, 0.8, 1.5, 4.0):
            # 2 damping / natural is the response's own lag
            rest_s = max((1 - share) * lag_s - period_s / 2, period_s / 4)
            theta = np.array([share * lag_s, np.log(2 * damping / rest_s), np.log(damping)])
            starts.append(np.clip(theta, low, high))
    return starts


def _direction(measured: np.ndarray) -> np.ndarray:
    """Returns the direction of motion (n,) in [-1, 1], zero at rest, as dry friction has it."""
    velocity = _smoothed(np.gradient(measured), "same")
    return np.tanh(velocity / (0.1 * velocity.std()))


def _project(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the first gain of the best y = x gains + bias, x (n, k), and the residual (n,)."""
    x = x - x.mean(axis=0)
    y = y - y.mean()
    gains = np.linalg.lstsq(x, y, rcond=None)[0]
    return float(gains[0]), y - x @ gains


def _half_interval(jac: np.ndarray, rest: np.ndarray) -> float:
    """Returns half the 95 % interval of the first parameter.

    Residuals count as independent between blocks only, so noise may be correlated in time.
    """
    inverse = np.linalg.pinv(jac.T @ jac)
    blocks = zip(np.array_split(jac, N_BLOCKS), np.array_split(rest, N_BLOCKS), strict=True)
    scores = np.stack([j.T @ e for j, e in blocks])
    covariance = inverse @ (scores.T @ scores) @ inverse * N_BLOCKS / (N_BLOCKS - 3)
    return float(T_QUANTILE * np.sqrt(max(covariance[0, 0], 0.0)))
