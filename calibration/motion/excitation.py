"""Small smooth motions for identification: sums of sines that start and end at rest."""

from __future__ import annotations

import numpy as np

N_SINES = 24
LOW_HZ = 0.3
HIGH_HZ = 5.0
RAMP_S = 0.5


def smooth_motion(
    n: int, n_joints: int, period_s: float, amplitude: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns offsets (n, n_joints) around zero, different for each joint.

    Each column is a sum of sines of random frequency and phase, faded in and out over 0.5 s. The
    first and the last row are zero.

    Args:
        n: Number of ticks.
        n_joints: Number of joints.
        period_s: Time between ticks [s]. No frequency is above a tenth of the tick rate.
        amplitude: Largest offset of each joint.
        rng: Draws frequencies and phases.
    """
    t_s = np.arange(n) * period_s
    shape = (N_SINES, n_joints)
    frequency_hz = rng.uniform(LOW_HZ, min(HIGH_HZ, 0.1 / period_s), shape)
    phase = rng.uniform(0, 2 * np.pi, shape)
    motion = np.sin(2 * np.pi * frequency_hz * t_s[:, None, None] + phase).sum(axis=1)
    to_end_s = np.minimum(t_s, t_s[-1] - t_s)
    fade = 0.5 - 0.5 * np.cos(np.pi * np.clip(to_end_s / RAMP_S, 0, 1))
    motion *= fade[:, None]
    return amplitude * motion / np.abs(motion).max(axis=0)
