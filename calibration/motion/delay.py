"""How late does a motion follow its command? Estimators on recorded signals, NumPy only.

Two different answers, both reported:

- `lag_s`: the shift at which the measured velocity resembles the commanded one most (peak of the normalised
  cross-correlation). It holds everything: transport delay, the half period that a held command is late on
  average, and the time in which the actuator follows. It is what a person sees.
- `delay_s`: the transport delay alone. The actuator is modelled as gain / (1 + 2 zeta s / w + s^2 / w^2)
  driven by the command as it is really given (held until the next tick) and `delay_s` later; delay, w and
  zeta are fitted together to the positions (output error). A least-squares ARX scan would be simpler, but
  encoder noise biases it; this fit it does not. What is not such a second-order response (a position
  filter, slack, strong friction) still ends up partly in `delay_s`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.errors import CalibrationError

N_BLOCKS = 10  # blocks of a recording that count as independent
T_QUANTILE = 2.262  # 97.5 % of Student's t with N_BLOCKS - 1 degrees of freedom
MIN_SAMPLES = 100
WEAK_CORRELATION = 0.5
WEAK_FIT = 0.8
MAX_NATURAL_RAD_S = 1000.0


@dataclass(frozen=True)
class DelayEstimate:
    """What one joint's command and motion say; low and high bound 95 % intervals (noise, not model errors).

    Attributes:
        delay_s: transport delay [s]; a value below zero within its interval means none.
        lag_s: shift of the best match, transport and response together [s].
        correlation: of the velocities at that shift, in [0, 1].
        inverted: the joint moves against its command; lag and delay are those of the negated motion.
        explained: share of the motion's variance that the fitted response explains.
        natural_hz: the response's natural frequency [Hz].
        damping: its damping ratio.
        gain: motion per command; negative where inverted.
        warnings: what makes the numbers doubtful, in words.
    """

    delay_s: float
    delay_low_s: float
    delay_high_s: float
    lag_s: float
    lag_low_s: float
    lag_high_s: float
    correlation: float
    inverted: bool
    explained: float
    natural_hz: float
    damping: float
    gain: float
    warnings: tuple[str, ...] = ()


def estimate_delay(
    command: np.ndarray, measured: np.ndarray, period_s: float, max_delay_s: float = 0.4
) -> DelayEstimate:
    """Returns delay and lag between a command and the motion that it caused.

    Args:
        command: (n,) positions commanded at ticks `period_s` apart, each held until the next.
        measured: (n,) positions read at the same ticks, each just before the tick's command was given.
        period_s: tick [s].
        max_delay_s: longest lag to look for [s].

    Raises:
        CalibrationError: shapes differ, too few samples, values not finite, or a signal that does not move.
    """
    command, measured = _checked(command, measured, period_s)
    max_lag = int(np.ceil(max_delay_s / period_s))
    if len(command) < max(MIN_SAMPLES, 4 * max_lag):
        need = max(MIN_SAMPLES, 4 * max_lag)
        raise CalibrationError(
            f"{len(command)} samples are too few, expected {need} or more; record for longer"
        )
    lag, lag_low, lag_high, peak = _lag(command, measured, max_lag)
    theta, interval, gain, explained = _fit(
        command, measured, period_s, lag * period_s, max_delay_s
    )
    warnings = _warnings(lag, peak, max_lag, explained, theta[0] + interval, period_s)
    return DelayEstimate(
        delay_s=float(theta[0]),
        delay_low_s=float(theta[0] - interval),
        delay_high_s=float(theta[0] + interval),
        lag_s=lag * period_s,
        lag_low_s=lag_low * period_s,
        lag_high_s=lag_high * period_s,
        correlation=abs(peak),
        inverted=peak < 0,
        explained=explained,
        natural_hz=float(np.exp(theta[1]) / (2 * np.pi)),
        damping=float(np.exp(theta[2])),
        gain=gain,
        warnings=warnings,
    )


def _checked(
    command: np.ndarray, measured: np.ndarray, period_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both signals as float64 (n,), or raises CalibrationError with the reason."""
    command, measured = np.asarray(command, float), np.asarray(measured, float)
    if command.ndim != 1 or command.shape != measured.shape:
        raise CalibrationError(
            f"command has shape {command.shape}, measured {measured.shape}; expected both (n,)"
        )
    if not (np.isfinite(period_s) and period_s > 0):
        raise CalibrationError(f"period_s is {period_s}, expected a positive number of seconds")
    for name, signal in (("command", command), ("measured", measured)):
        if not np.isfinite(signal).all():
            raise CalibrationError(
                f"{name} holds {np.sum(~np.isfinite(signal))} values that are not finite"
            )
        if np.ptp(signal) < 1e-9:
            raise CalibrationError(
                f"{name} never changes, so nothing can be compared; does this joint move?"
            )
    return command, measured


def _warnings(
    lag: float, peak: float, max_lag: int, explained: float, delay_high_s: float, period_s: float
) -> tuple[str, ...]:
    """Returns in words what makes an estimate doubtful."""
    doubts = {
        f"weak correlation ({abs(peak):.2f}): the motion hardly follows the command": abs(peak)
        < WEAK_CORRELATION,
        f"the response model explains only {explained:.0%} of the motion": explained < WEAK_FIT,
        "the best lag lies at the edge of the search: raise max_delay_s": abs(lag) >= max_lag - 1,
        "the motion leads the command: are the two recorded on one clock?": lag < 0
        or delay_high_s < -period_s / 2,
        "the joint moves against its command: check the sign of its calibration": peak < 0,
    }
    return tuple(text for text, holds in doubts.items() if holds)


# --- lag: normalised cross-correlation of velocities


def _lag(
    command: np.ndarray, measured: np.ndarray, max_lag: int
) -> tuple[float, float, float, float]:
    """Returns the best lag, its 95 % interval (block bootstrap) [ticks], and the signed correlation there."""
    lags = np.arange(-max_lag, max_lag + 1)
    sums = _block_sums(_velocity(command), _velocity(measured), lags)
    lag, peak = (x[0] for x in _peaks(sums.sum(axis=0, keepdims=True), lags))
    rng = np.random.default_rng(0)
    picks = rng.multinomial(N_BLOCKS, np.full(N_BLOCKS, 1 / N_BLOCKS), size=400)
    low, high = np.quantile(_peaks(np.einsum("rb,bks->rks", picks, sums), lags)[0], [0.025, 0.975])
    return float(lag), float(min(low, lag)), float(max(high, lag)), float(peak)


def _velocity(position: np.ndarray) -> np.ndarray:
    """Returns differences, smoothed alike for both signals (so that no shift comes from it), per tick."""
    window = np.hanning(7)[1:-1]
    return np.convolve(np.diff(position), window / window.sum(), mode="valid")


def _block_sums(a: np.ndarray, b: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns sums of a*b, a*a, b*b over each block of each overlap, its means removed, (N_BLOCKS, n_lags, 3)."""
    n, sums = len(a), np.empty((N_BLOCKS, len(lags), 3))
    for k, lag in enumerate(lags):
        x, y = a[max(0, -lag) : n - max(0, lag)], b[max(0, lag) : n + min(0, lag)]
        x, y = x - x.mean(), y - y.mean()
        starts = np.linspace(0, len(x), N_BLOCKS, endpoint=False).astype(int)
        sums[:, k] = np.add.reduceat(np.stack([x * y, x * x, y * y], axis=1), starts)
    return sums


def _peaks(sums: np.ndarray, lags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lag of the largest |correlation| (r,), by a parabola, and the value there; sums (r, n_lags, 3)."""
    corr = sums[..., 0] / np.sqrt(np.maximum(sums[..., 1] * sums[..., 2], 1e-300))
    row = np.arange(len(corr))
    at = np.abs(corr).argmax(axis=1)
    inner = np.clip(at, 1, len(lags) - 2)
    left, mid, right = (np.abs(corr[row, inner + i]) for i in (-1, 0, 1))
    bend = left - 2 * mid + right
    shift = np.where(
        (bend < 0) & (at == inner), 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0
    )
    return lags[at] + shift, corr[row, at]


# --- delay: second-order response, fitted by output error


def response(command: np.ndarray, period_s: float, theta: np.ndarray) -> np.ndarray:
    """Returns the unit-gain motion (n,) of a held command, measured from its first value.

    Args:
        command: (n,) held from tick to tick; before the first tick it was `command[0]`.
        period_s: tick [s].
        theta: delay [s], log natural frequency [rad/s], log damping ratio.
    """
    n = len(command)
    steps = np.diff(command, prepend=command[0])
    size = 1 << (2 * n - 1).bit_length()
    kernel = _step_response(np.arange(n) * period_s - theta[0], np.exp(theta[1]), np.exp(theta[2]))
    return np.fft.irfft(np.fft.rfft(steps, size) * np.fft.rfft(kernel, size), size)[:n]


def _step_response(t_s: np.ndarray, natural: float, damping: float) -> np.ndarray:
    """Returns the unit step response at `t_s` (n,) [s], zero before t = 0; any damping but exactly 1."""
    root = np.sqrt(complex(damping**2 - 1.0))
    root = root if abs(root) > 1e-4 else 1e-4
    p, q = natural * (-damping + root), natural * (-damping - root)
    t = np.maximum(t_s, 0.0)
    return np.where(t_s > 0, (1 + (q * np.exp(p * t) - p * np.exp(q * t)) / (p - q)).real, 0.0)


def _fit(
    command: np.ndarray, measured: np.ndarray, period_s: float, lag_s: float, max_delay_s: float
) -> tuple[np.ndarray, float, float, float]:
    """Returns theta (3,), half the delay's 95 % interval [s], the gain and the explained share of variance."""
    keep = slice(
        min(int(0.5 / period_s), len(command) // 10), None
    )  # what moved before the start has decayed
    low = np.array([-2 * period_s, np.log(1.0), np.log(0.05)])
    high = np.array([max_delay_s, np.log(MAX_NATURAL_RAD_S), np.log(20.0)])

    drag = _direction(measured)

    def columns(theta: np.ndarray) -> np.ndarray:
        undelayed = np.array(
            [-period_s / 2, *theta[1:]]
        )  # friction acts at once; the direction is that around a tick
        return np.stack(
            [response(command, period_s, theta)[keep], response(drag, period_s, undelayed)[keep]],
            axis=1,
        )

    def residual(theta: np.ndarray) -> np.ndarray:
        return _project(columns(theta), measured[keep])[1]

    starts = []
    for share in (0.0, 0.25, 0.5, 0.75, 0.95):
        for damping in (0.4, 0.8, 1.5, 4.0):
            rest_s = max(
                (1 - share) * lag_s - period_s / 2, period_s / 4
            )  # 2 damping / natural is the response's own lag
            theta = np.array([share * lag_s, np.log(2 * damping / rest_s), np.log(damping)])
            theta = np.clip(theta, low, high)
            starts.append((float(np.sum(residual(theta) ** 2)), theta))
    starts.sort(key=lambda item: item[0])
    fits = [_descend(residual, theta, low, high) for _, theta in starts[:4]]
    theta = min(fits, key=lambda item: item[0])[1]
    gain, rest = _project(columns(theta), measured[keep])
    explained = 1.0 - float(np.sum(rest**2) / np.sum((measured[keep] - measured[keep].mean()) ** 2))
    return theta, _interval(_jacobian(residual, theta), rest), float(gain), explained


def _direction(measured: np.ndarray) -> np.ndarray:
    """Returns the direction of motion (n,) in [-1, 1], zero at rest: the shape of a dry friction's force."""
    window = np.hanning(7)[1:-1]
    velocity = np.convolve(np.gradient(measured), window / window.sum(), mode="same")
    return np.tanh(velocity / (0.1 * velocity.std()))


def _project(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the first gain of the best y = x gains + bias, x (n, k), and what is left (n,)."""
    x, y = x - x.mean(axis=0), y - y.mean()
    gains = np.linalg.lstsq(x, y, rcond=None)[0]
    return float(gains[0]), y - x @ gains


def _jacobian(residual, theta: np.ndarray) -> np.ndarray:
    """Returns d residual / d theta (n, 3) by central differences."""
    steps = np.diag([1e-5, 1e-4, 1e-4])
    return np.stack(
        [(residual(theta + h) - residual(theta - h)) / (2 * h.sum()) for h in steps], axis=1
    )


def _descend(
    residual, theta: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[float, np.ndarray]:
    """Returns the smallest squared residual that Levenberg-Marquardt finds from `theta`, and where."""
    rest = residual(theta)
    cost, damping = float(rest @ rest), 1e-2
    for _ in range(40):
        jac = _jacobian(residual, theta)
        normal = jac.T @ jac
        step = np.linalg.lstsq(
            normal + damping * np.diag(np.diag(normal) + 1e-12), -jac.T @ rest, rcond=None
        )[0]
        new = np.clip(theta + step, low, high)
        new_rest = residual(new)
        new_cost = float(new_rest @ new_rest)
        if new_cost < cost:
            done = cost - new_cost < 1e-9 * cost
            theta, rest, cost, damping = new, new_rest, new_cost, damping / 5
            if done:
                break
        else:
            damping *= 5
            if damping > 1e8:
                break
    return cost, theta


def _interval(jac: np.ndarray, rest: np.ndarray) -> float:
    """Returns half the 95 % interval of the first parameter, residuals taken as independent between blocks only."""
    inverse = np.linalg.pinv(jac.T @ jac)
    scores = np.stack(
        [
            j.T @ e
            for j, e in zip(
                np.array_split(jac, N_BLOCKS), np.array_split(rest, N_BLOCKS), strict=True
            )
        ]
    )
    covariance = inverse @ (scores.T @ scores) @ inverse * N_BLOCKS / (N_BLOCKS - 3)
    return float(T_QUANTILE * np.sqrt(max(covariance[0, 0], 0.0)))
