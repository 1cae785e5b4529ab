import dataclasses
import math

import numpy as np
import pytest

from policy_server.contract.errors import BundleError
from policy_server.contract.field import Field, difference, limits, scales, tolerances

INF = float("inf")


def field(**changes):
    values = {
        "name": "arm",
        "start": 1,
        "stop": 3,
        "unit": "rad",
        "low": (-INF, -1),
        "high": (INF, 1),
        "max_rate": (5, INF),
    }
    return Field(**{**values, **changes})


def test_limits_become_plain_floats_and_survive_json():
    made = field(entries=("hip.pos", "knee.pos"))
    assert made.low == (-INF, -1.0) and all(type(value) is float for value in made.max_rate)
    assert made.to_dict()["low"] == [None, -1.0] and made.to_dict()["max_rate"] == [5.0, None]
    assert Field.from_dict(made.to_dict()) == made
    assert len(made) == 2


def test_entry_names_are_the_entries_or_the_name_of_a_single_number_or_unknown():
    assert field(entries=["hip.pos", "knee.pos"]).entry_names() == ("hip.pos", "knee.pos")
    assert field().entry_names() is None
    one = Field("button.travel", 0, 1, "m", (0,), (1,))
    assert one.entry_names() == ("button.travel",)
    assert dataclasses.replace(one, entries=("b.pos",)).entry_names() == ("b.pos",)


def test_a_field_without_entries_is_written_as_before_entries_existed():
    keys = {"name", "start", "stop", "unit", "low", "high", "max_rate"}
    assert set(field().to_dict()) == keys
    assert set(field(entries=("a", "b")).to_dict()) == keys | {"entries"}
    assert Field.from_dict(field().to_dict()).entries is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "expected a text"),
        ({"unit": 3}, "unit 3: expected a text"),
        ({"start": 3}, r"slice \[3, 3\)"),
        ({"start": True}, "whole numbers"),
        ({"low": (0,)}, "low has 1 entries, expected 2"),
        ({"low": (0, "x")}, "expected numbers"),
        ({"high": (math.nan, 1)}, "high holds NaN"),
        ({"low": (2, 2)}, "above high"),
        ({"max_rate": (0, 1)}, "rates above 0"),
        ({"entries": ("hip.pos",)}, "expected 2 different names"),
        ({"entries": ("hip.pos", "hip.pos")}, "expected 2 different names"),
        ({"entries": ("hip.pos", "")}, "expected 2 different names"),
        ({"entries": ("hip.pos", 3)}, "expected 2 different names"),
        ({"entries": "ab"}, "expected 2 different names"),
    ],
)
def test_a_field_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(BundleError, match=message):
        field(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": None}, "entries None: expected a list"),
        ({"entries": "ab"}, "expected a list"),
        ({"low": None}, "low None: expected a list"),
        ({"colour": "red"}, "expected keys"),
    ],
)
def test_json_of_another_layout_is_refused(changes, message):
    with pytest.raises(BundleError, match=message):
        Field.from_dict({**field().to_dict(), **changes})


def test_limits_of_a_vector_are_those_of_its_fields_in_order():
    low, high = limits((field(start=0, stop=2), Field("b", 2, 3, "m", low=(3,), high=(4,))))
    np.testing.assert_array_equal(low, [-INF, -1, 3])
    np.testing.assert_array_equal(high, [INF, 1, 4])
    assert low.dtype == np.float64


def test_a_scale_is_the_range_or_without_one_the_largest_value():
    fields = (
        Field("arm", 0, 3, "rad", (-1, -INF, 0), (2, INF, INF)),
        Field("torque", 3, 6, "Nm", (-3.4e38,) * 3, (3.4e38,) * 3),
        Field("fixed", 6, 7, "m", (5,), (5,)),
        Field("silent", 7, 8, "m", (-INF,), (INF,)),
    )
    values = np.zeros((4, 2, 8))
    values[1, 0, 1:7] = [-7, 0.5, 300, -2, 1e-9, 5]
    expected = [3, 7, 0.5, 300, 2, 0.3, 5, 1]
    np.testing.assert_allclose(scales(fields, values), expected)


def test_a_tolerance_is_a_share_of_the_scale_and_what_float32_rounds():
    fields = (Field("arm", 0, 2, "m", (-1, 999.999), (1, 1000.001)),)
    values = np.array([[0.5, 1000.0]])
    found = tolerances(fields, values, 1e-5)
    assert found == pytest.approx([2e-5, 2e-8 + 2 * 2**-23 * 1000], rel=0.01)
    said = difference(fields, np.array([1e-6, 1.0]), found)
    assert said == "arm[1] by 1 m, allowed is 0.000238"
    nan = difference(fields, np.array([1e-6, np.nan]), found)
    assert nan.startswith("arm[1] by nan m")
