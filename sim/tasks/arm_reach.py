"""The cubes that the desk arm's end effector can reach: what its coverage is a share of.

They are drawn once and shipped, because drawing them takes seconds. After a change of the arm's
world, `ship(arm.load_model())` draws them anew.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import mujoco
import numpy as np

from sim.core import coverage

VOXEL_M = 0.03
N_ARM_JOINTS = 4  # those that move the end effector
SHIPPED = "assets/desk_arm_reach.npy"

Voxels = frozenset[tuple[int, ...]]


@cache
def reachable_voxels() -> Voxels:
    """Returns the shipped index triples of the cubes with edge VOXEL_M."""
    with resources.files("sim").joinpath(SHIPPED).open("rb") as file:
        return _as_set(np.load(file, allow_pickle=False))


def drawn_voxels(model: mujoco.MjModel, n_samples: int = 200_000) -> Voxels:
    """Returns the cubes that the end effector can reach without the hand in the desk or the box.

    Joint angles are drawn uniformly. A cube counts when at least one collision-free pose reaches
    it.
    """
    rng = np.random.default_rng(11)
    data = mujoco.MjData(model)
    low, high = model.jnt_range[:N_ARM_JOINTS].T
    found = []
    for _ in range(n_samples):
        data.qpos[:N_ARM_JOINTS] = rng.uniform(low, high)
        mujoco.mj_kinematics(model, data)
        position = data.site_xpos[0]
        if position[2] < 0.0:
            continue
        mujoco.mj_collision(model, data)
        if data.ncon == 0:
            found.append(position.copy())
    return _as_set(coverage.voxels(np.array(found), VOXEL_M))


def _as_set(voxels: np.ndarray) -> Voxels:
    """Returns index triples (m, 3) as a set."""
    return frozenset(map(tuple, voxels.tolist()))


def ship(model: mujoco.MjModel) -> None:
    """Draws the cubes of the world anew and writes them into the assets."""
    drawn = np.array(sorted(drawn_voxels(model)), np.int8)
    np.save(Path(str(resources.files("sim").joinpath(SHIPPED))), drawn)
