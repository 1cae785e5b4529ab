"""The planar cheetah: 17 numbers, 6 torques. Tasks: run, flip (arXiv 2110.15191).

Observation: position (8) of the joints without `rootx`: `rootz` [m] from where the model is drawn
(0.7 m up), `rooty`, then thigh, shin and foot of the back and of the front leg [rad]; velocity (9)
[m/s, rad/s] of all joints, `rootx` first.
"""

from __future__ import annotations

from functools import partial

import mujoco
import numpy as np

from sim.tasks.urlb.body import Paid, at_least, register
from sim.tasks.urlb.measured import Measured
from sim.tasks.urlb.planar import Planar, forward_speed, spin
from sim.tasks.urlb.starts import draw_limited, forward_unpowered

RUN_MS = 10.0
SPIN = 5.0  # angular momentum [kg m^2/s]
N_SETTLING = 200  # physics steps before an episode


class Cheetah(Planar):
    """The cheetah without reward, or with that of one of `CHEETAH_TASKS`."""

    control_period_s = 0.01
    domain = "cheetah"
    camera = "side"
    fast_ms = 6.0
    bends = ("bthigh", "bshin", "fthigh", "fshin")

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Puts the legs anywhere and lets the body fall for two seconds."""
        draw_limited(data, rng)
        mujoco.mj_step(self.model, data, N_SETTLING)
        data.time = 0
        forward_unpowered(data)
        return True


def run(seen: Measured, sign: int) -> np.ndarray:
    """Returns (n,) the reward of moving at 10 m/s or faster along x times `sign`."""
    return at_least(sign * forward_speed(seen), RUN_MS, RUN_MS)


def flip(seen: Measured, sign: int) -> np.ndarray:
    """Returns (n,) the reward of turning about y times `sign`."""
    return at_least(sign * spin(seen), SPIN, SPIN)


CHEETAH_TASKS = {
    "cheetah": None,
    "cheetah-run": Paid(partial(run, sign=1)),
    "cheetah-run-backward": Paid(partial(run, sign=-1)),
    "cheetah-flip": Paid(partial(flip, sign=1), hidden="mass"),
    "cheetah-flip-backward": Paid(partial(flip, sign=-1), hidden="mass"),
}
register(Cheetah, CHEETAH_TASKS)
