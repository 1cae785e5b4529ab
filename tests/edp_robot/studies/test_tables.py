import csv
import io

import numpy as np
import pytest

from edp_robot.studies.tables import as_csv, cell, markdown, mean_std


def test_std_is_the_samples():
    """Of .2, .4, .9: mean .5, squares .09 + .01 + .16 = .26, over n - 1 = 2: sqrt(.13) = .3606."""
    assert mean_std(np.array([0.2, 0.4, 0.9])) == pytest.approx((0.5, np.sqrt(0.13)))
    assert cell(np.array([0.2, 0.4, 0.9])) == "0.50 +- 0.36 (3)"


def test_a_single_value_has_no_std():
    assert mean_std(np.array([3.0])) == (3.0, None)
    assert cell(np.array([0.25]), 1) == "0.2 (1)"


def test_tables_are_written_by_rows():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    rows = [{"a": 1, "b": "x, y"}, {"a": 2, "b": ""}]
    found = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert found == [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]
