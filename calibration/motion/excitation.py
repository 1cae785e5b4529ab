"""Small smooth motions for identification: sums of sines that start and end at rest."""

from __future__ import annotations

import numpy as np

N_SINES = 24
LOW_HZ = 0.3
RAMP_S = 0.5


def smooth_motion(
    n: int, n_joints: int, period_s: float, amplitude: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns offsets (n, n_joints) around zero, different for each joint, none beyond `amplitude`.

    Each column is a sum of sines of random frequency and phase between 0.3 Hz and 5 Hz (a tenth of the tick
    rate if that is less), faded in and out over 0.5 s; the first and the last row are zero.
    """
    t_s = np.arange(n) * period_s
    frequency_hz = rng.uniform(LOW_HZ, min(5.0, 0.1 / period_s), (N_SINES, n_joints))
    phase = rng.uniform(0, 2 * np.pi, (N_SINES, n_joints))
    motion = np.sin(2 * np.pi * frequency_hz * t_s[:, None, None] + phase).sum(axis=1)
    fade = 0.5 - 0.5 * np.cos(np.pi * np.clip(np.minimum(t_s, t_s[-1] - t_s) / RAMP_S, 0, 1))
    motion *= fade[:, None]
    return amplitude * motion / np.abs(motion).max(axis=0)
