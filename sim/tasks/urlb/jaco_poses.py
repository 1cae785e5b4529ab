"""Poses that the Jaco arm's episodes begin in: dm_control's own, drawn once and shipped.

dm_control finds each by inverse kinematics, which takes 30 ms. After a change of dm_control's
initializer, `ship()` draws them anew.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

N_POSES = 1024
N_JOINTS = 9  # six of the arm, three fingers
SHIPPED = "assets/jaco_poses.npy"


@cache
def poses() -> np.ndarray:
    """Returns joint positions (N_POSES, N_JOINTS) float32 [rad].

    The hand points down, its pinch site anywhere in a box of 20 cm, 20 to 40 cm above the floor.
    The fingers are closed by a random share. Nothing touches.
    """
    with resources.files("sim").joinpath(SHIPPED).open("rb") as file:
        return np.load(file, allow_pickle=False)


def drawn_poses(n: int, seed: int) -> np.ndarray:
    """Returns `n` poses (n, N_JOINTS) that dm_control's task `reach_duplo` begins in [rad]."""
    from dm_control import manipulation

    env = manipulation.load("reach_duplo_features", seed)
    drawn = np.zeros((n, N_JOINTS), np.float32)
    for row in drawn:
        env.reset()
        assert env.physics
        row[:] = env.physics.position()[:N_JOINTS]
    return drawn


def ship() -> None:
    """Draws the poses anew and writes them into the assets."""
    np.save(Path(str(resources.files("sim").joinpath(SHIPPED))), drawn_poses(N_POSES, seed=0))
