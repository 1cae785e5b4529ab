import numpy as np
import pytest

from sim.core.coverage import voxels
from sim.tasks import arm
from sim.tasks.arm_reach import VOXEL_M, drawn_voxels, reachable_voxels


def test_cubes_drawn_from_the_world_are_among_the_shipped():
    few = drawn_voxels(arm.load_model(), n_samples=10_000)
    assert len(few) > 1_000
    assert few <= reachable_voxels()


@pytest.mark.slow
def test_the_shipped_cubes_are_those_of_the_world():
    """After a change of the arm's world, `ship(arm.load_model())` writes them anew."""
    assert drawn_voxels(arm.load_model()) == reachable_voxels()


def test_start_poses_lie_in_reachable_voxels():
    at = np.concatenate([arm.poses(kind)[1][:, 12:15] for kind in ("rest", "random")])
    seen = set(map(tuple, voxels(at, VOXEL_M).tolist()))
    assert len(seen) > 300
    assert len(seen - reachable_voxels()) <= 0.01 * len(seen)
    assert all(z >= 0 for _, _, z in reachable_voxels())
