"""How episodes of dm_control begin."""

from __future__ import annotations

import mujoco
import numpy as np


def forward_unpowered(data: mujoco.MjData) -> None:
    """Runs `mj_forward` without actuators, as dm_control does at the start of an episode."""
    model = data.model
    flags = model.opt.disableflags
    model.opt.disableflags = flags | mujoco.mjtDisableBit.mjDSBL_ACTUATION
    mujoco.mj_forward(model, data)
    model.opt.disableflags = flags


def draw_limited(data: mujoco.MjData, rng: np.random.Generator) -> None:
    """Draws the positions of joints that have a range, evenly in it."""
    model = data.model
    limited = model.jnt_limited.astype(bool)
    data.qpos[model.jnt_qposadr[limited]] = rng.uniform(*model.jnt_range[limited].T)


def draw_hinges(data: mujoco.MjData, rng: np.random.Generator) -> None:
    """Draws the angles of hinges that have no range, evenly all around."""
    model = data.model
    free = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (model.jnt_limited == 0)
    data.qpos[model.jnt_qposadr[free]] = rng.uniform(-np.pi, np.pi, free.sum())
