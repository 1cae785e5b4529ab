import numpy as np

from sim.core.coverage import BinCoverage, VoxelCoverage, voxels


def test_voxels_by_hand():
    points = np.array([[0.01, 0.02, 0.029], [0.0, 0.0, 0.0], [-0.001, 0.031, 0.061]])
    assert voxels(points, 0.03).tolist() == [[-1, 1, 2], [0, 0, 0]]


def half_cells():
    return BinCoverage(lambda obs: (2 * obs[:, 0]).astype(int), n_bins=4, n_reachable=3)


def test_bins_count_the_first_obs_of_an_episode_too():
    counter = half_cells()
    counter.visit(np.array([[0.1]]), np.array([[[0.6]], [[0.7]]]))
    assert counter.share() == 2 / 3


def test_a_saved_count_goes_on():
    for make, obs in ((half_cells, [[1.4]]), (unit_cubes, [[0.5, 0.5, 0.5]])):
        counter = make()
        counter.visit(np.array(obs), np.array([obs]))
        again = make()
        again.load(counter.state())
        assert again.share() == counter.share() > 0
        again.visit(np.array(obs), np.array([obs]))
        assert again.share() == counter.share()


def unit_cubes():
    return VoxelCoverage(slice(0, 3), 1.0, lambda: frozenset({(0, 0, 0), (1, 0, 0)}))


def test_cubes_outside_the_reachable_ones_do_not_count():
    counter = unit_cubes()
    path = np.array([[[0.5, 0.5, 0.5]], [[0.2, 0.9, 0.1]], [[7.0, 0.0, 0.0]]])
    counter.visit(path[0], path)
    assert counter.share() == 0.5
