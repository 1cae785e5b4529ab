"""A task of your own: move a cart to a mark on its rail, from a random place.

    edp pretrain --task my_task:Cart --out runs/cart
    edp finetune --task my_task:Cart --from runs/cart --out runs/mark
    edp control --bundle bundle --robot sim:my_task:Cart

Run it in the folder of this file. No other file names it. The MJCF may also be a file beside this
one: `mjcf = "cart.xml"`.
"""

from __future__ import annotations

import mujoco
import numpy as np

from sim import BinCoverage, MujocoTask, Part

MARK_M = 0.5
REACHED_M = 0.02
N_BINS = 20  # of the rail, for the coverage of a learner that explores


class Cart(MujocoTask):
    """A cart with a position servo. Actions are rates of the servo's target."""

    control_period_s = 0.02
    episode_steps = 100
    hold = 5  # ten decisions a second
    success_when = "end"
    action_kind = "increment"
    action_unit = "m"
    max_rate = 1.0  # [m/s]
    mjcf = """
    <mujoco model="cart">
      <option timestep="0.005"/>
      <worldbody>
        <camera name="side" pos="0 -2.5 0.4" xyaxes="1 0 0 0 0.15 1"/>
        <light pos="0 -1 2"/>
        <geom type="capsule" size="0.01" fromto="-1 0 0 1 0 0" contype="0" conaffinity="0"/>
        <body name="cart" pos="0 0 0.08">
          <joint name="slide" type="slide" axis="1 0 0" range="-1 1" damping="2"/>
          <geom type="box" size="0.1 0.06 0.06" mass="1" rgba="0.9 0.5 0.1 1"/>
        </body>
      </worldbody>
      <actuator>
        <position name="slide" joint="slide" kp="120" kv="15" ctrlrange="-1 1"/>
      </actuator>
      <sensor>
        <jointpos joint="slide"/>
        <jointvel joint="slide"/>
      </sensor>
    </mujoco>
    """
    camera = "side"

    def obs_parts(self) -> tuple[Part, ...]:
        """Returns the sensors in the order of the MJCF, then the command that stands."""
        return (
            Part("position", "m", -1.0, 1.0, entries=("slide.pos",)),
            Part("velocity", "m/s", -2.0, 2.0, entries=("slide.vel",)),
            Part("command", "m", -1.0, 1.0, entries=("slide.command",)),
        )

    def place(self, data: mujoco.MjData, rng: np.random.Generator) -> bool:
        """Puts the cart somewhere on the left half of the rail."""
        data.qpos[0] = rng.uniform(-0.9, -0.1)
        mujoco.mj_forward(self.model, data)
        return True

    def reward(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) 1 at the mark, falling with the distance."""
        return np.exp(-np.abs(obs[:, 0] - MARK_M) / 0.2).astype(np.float32)

    def success(self, obs: np.ndarray) -> np.ndarray:
        """Returns (n,) bool: the cart stands within REACHED_M of the mark."""
        return np.abs(obs[:, 0] - MARK_M) < REACHED_M

    def new_coverage(self) -> BinCoverage:
        """Returns a counter of the tenths of a metre of the rail that the cart has visited."""
        return BinCoverage(rail_bin, N_BINS, n_reachable=N_BINS)


def rail_bin(obs: np.ndarray) -> np.ndarray:
    """Returns the part of the rail (n,) int that the cart stands in."""
    return np.clip((obs[:, 0] + 1.0) / 2.0 * N_BINS, 0, N_BINS - 1).astype(int)
