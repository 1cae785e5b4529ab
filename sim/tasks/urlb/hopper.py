"""The one-legged hopper: 15 numbers, 4 torques. Tasks: hop, flip (arXiv 2110.15191), stand.

Observation: position (6) of the joints without `rootx`: `rootz` [m] from where the model is drawn
(1 m up), `rooty`, waist, hip, knee and ankle [rad]; velocity (7) [m/s, rad/s] of all joints,
`rootx` first; touch (2), log(1 + force [N]) at toe and heel.
"""

from __future__ import annotations

from functools import partial

import mujoco
import numpy as np

from sim.core.spec import Part
from sim.tasks.urlb.body import Paid, at_least, register
from sim.tasks.urlb.measured import SENSOR, Measured, measure
from sim.tasks.urlb.planar import Planar, forward_speed, spin
from sim.tasks.urlb.starts import draw_hinges, draw_limited, forward_unpowered

TOUCHES = ("touch_toe", "touch_heel")
STAND_HEIGHT_M = (0.6, 2.0)  # of the torso above the foot
HOP_MS = 2.0
SPIN = 5.0  # angular momentum [kg m^2/s]


class Hopper(Planar):
    """The hopper without reward, or with that of one of `HOPPER_TASKS`."""

    control_period_s = 0.02
    domain = "hopper"
    camera = "cam0"
    fast_ms = 4.0
    bends = ("waist", "hip", "knee", "ankle")

    @classmethod
    def world(cls) -> mujoco.MjSpec:
        """Returns dm_control's hopper, with sensors for what is observed and paid."""
        spec = super().world()
        measure(spec, SENSOR.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_BODY, "torso", "foot")
        return spec

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the three fields of the observation."""
        touch = Part("touch", "log(1 + N)", np.zeros(2), np.full(2, np.inf), entries=TOUCHES)
        return (*super().obs_parts(), touch)

    def observe(self, sensor: np.ndarray, command: np.ndarray) -> np.ndarray:
        """Returns obs (n, 15) float32 of readings (n, n_readings)."""
        seen = self.measured(sensor)
        touch = np.log1p(seen(*TOUCHES))
        return np.concatenate([self.seen_joints(seen), touch], axis=1).astype(np.float32)

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Puts the joints anywhere; the body then falls."""
        draw_limited(data, rng)
        draw_hinges(data, rng)
        forward_unpowered(data)
        return True


def standing(seen: Measured) -> np.ndarray:
    """Returns 1 where the centre of the torso (n,) is high enough above that of the foot."""
    height = seen("framepos.torso")[:, 2] - seen("framepos.foot")[:, 2]
    low, high = STAND_HEIGHT_M
    return ((height >= low) & (height <= high)).astype(np.float64)


def hop(seen: Measured, sign: int) -> np.ndarray:
    """Returns (n,) the reward of standing and moving at 2 m/s or faster along x times `sign`."""
    return standing(seen) * at_least(sign * forward_speed(seen), HOP_MS, HOP_MS / 2, 0.5)


def flip(seen: Measured, sign: int) -> np.ndarray:
    """Returns (n,) the reward of standing and turning about y times `sign`."""
    return standing(seen) * at_least(sign * spin(seen), SPIN, SPIN)


def stand(seen: Measured) -> np.ndarray:
    """Returns (n,) the reward of standing with small torques."""
    small = (1 - seen.command**2).mean(axis=1)
    return standing(seen) * (small + 4) / 5


HOPPER_TASKS = {
    "hopper": None,
    "hopper-hop": Paid(partial(hop, sign=1)),
    "hopper-hop-backward": Paid(partial(hop, sign=-1)),
    "hopper-flip": Paid(partial(flip, sign=1), hidden="mass"),
    "hopper-flip-backward": Paid(partial(flip, sign=-1), hidden="mass"),
    "hopper-stand": Paid(stand, hidden="command"),
}
register(Hopper, HOPPER_TASKS)
