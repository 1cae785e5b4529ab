"""Grids of bins, patterns of flags, and several of them at once, by hand."""

import numpy as np
import pytest

from sim.core.coverage import BinCoverage, HasMeasures, SeveralCoverages
from sim.core.spec import Part, tile
from sim.core.subspaces import grid_coverage, numbers, pattern_coverage

FIELDS = tile(
    Part("height", "m", 0.0, 2.0),
    Part("angle", "rad", [-1.0, 0.0], [1.0, 4.0], entries=("hip", "knee")),
    Part("far", "m", -np.inf, np.inf),
    Part("contact", "1", [0.0, 0.0], [1.0, 1.0]),
)


def shown(counter, *rows):
    path = np.array(rows, float)[:, None]
    counter.visit(path[0], path)
    return counter.share()


def test_numbers_are_found_by_their_entries_or_by_their_field():
    assert numbers(FIELDS)["knee"] == (2, 0.0, 4.0)
    assert list(numbers(FIELDS)) == ["height", "hip", "knee", "far"]


def test_bins_of_a_grid_by_hand():
    counter = grid_coverage(FIELDS, {"knee": 2, "height": 4})
    assert shown(counter, [0.1, 0, 1.9, 0, 0, 0], [0.4, 9, 0.1, 9, 1, 1]) == 1 / 8  # one bin
    assert shown(counter, [0.6, 0, 1.9, 0, 0, 0], [0.1, 0, 2.1, 0, 0, 0]) == 3 / 8
    assert shown(counter, [0.1, 0, 9.0, 0, 0, 0], [-5, 0, 3.0, 0, 0, 0]) == 3 / 8  # the nearest


def test_a_grid_tells_every_bin_from_the_others():
    counter = grid_coverage(FIELDS, {"height": 4, "hip": 3, "knee": 5})
    axes = np.meshgrid(np.arange(4) / 2, np.arange(3) * 2 / 3 - 0.9, np.arange(5) * 0.8 + 0.1)
    rows = np.stack([axis.ravel() for axis in axes], axis=1)
    for n, row in enumerate(rows, start=1):
        assert shown(counter, [*row, 0, 0, 0]) == pytest.approx(n / 60)


def test_patterns_are_counted_and_apart_by_bins():
    counter = pattern_coverage(FIELDS, "contact")
    assert shown(counter, [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 2, 0], [0, 0, 0, 0, 1, 0]) == 2
    assert shown(counter, [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 3, 1]) == 4
    counter = pattern_coverage(FIELDS, "contact", {"height": 2})
    assert shown(counter, [0, 0, 0, 0, 2, 0], [1.5, 0, 0, 0, 2, 0], [1.6, 0, 0, 0, 2, 0]) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: grid_coverage(FIELDS, {"elbow": 2}), "there are: height, hip, knee, far"),
        (lambda: grid_coverage(FIELDS, {"far": 2}), "finite limits"),
        (lambda: pattern_coverage(FIELDS, "touch"), "'height', 'angle', 'far', 'contact'"),
    ],
)
def test_a_wrong_name_or_an_endless_number_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def two():
    return SeveralCoverages(
        {
            "coverage_torso": grid_coverage(FIELDS, {"height": 4}),
            "n_contacts": pattern_coverage(FIELDS, "contact"),
        }
    )


def test_several_are_counted_side_by_side_and_the_first_is_the_main_one():
    counter = two()
    assert isinstance(counter, HasMeasures)
    assert not isinstance(grid_coverage(FIELDS, {"height": 4}), HasMeasures)
    assert shown(counter, [0, 0, 0, 0, 0, 0], [1.9, 0, 0, 0, 1, 0]) == 1 / 2
    assert counter.measures() == {"coverage_torso": 1 / 2, "n_contacts": 2}
    again = two()
    again.load(counter.state())
    assert again.measures() == counter.measures()


def test_the_main_count_of_a_checkpoint_without_the_others_goes_on():
    alone = BinCoverage(lambda values: values[:, 0].astype(int), 4, 4)
    shown(alone, [3, 0, 0, 0, 0, 0])
    counter = two()
    counter.load(alone.state())
    assert counter.measures() == {"coverage_torso": 1 / 4, "n_contacts": 0}
