import numpy as np
import pytest

from policy_server.bench.compare import compare, verdict
from policy_server.bench.statistics import summary


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([10, 12], [12, 14], "same within the interval"),
        ([10, 12], [12.1, 14], "slower"),
        ([10, 12], [8, 9.9], "faster"),
        ([10, 12], [8, None], "unknown: too few samples, or answers missing"),
        ([10, 12], [12.1, None], "slower"),
        ([None, 12], [13, 14], "slower"),
        ([10, None], [13, 14], "unknown: too few samples, or answers missing"),
    ],
)
def test_verdicts_by_hand(before, after, said):
    assert verdict(before, after) == said


def by_name(before, after):
    """The lines of a comparison of two round trips, by the number's name."""
    nested = [{"sweep": {"clients_1": {"roundtrip_us": one}}} for one in (before, after)]
    lines = compare(*nested).splitlines()[1:]
    return {line.split()[0].removeprefix("sweep.clients_1.roundtrip_us."): line for line in lines}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(1, 1, "1.000  same within the interval"), (1, 2, "2.000  slower"), (2, 1, "0.500  faster")],
)
def test_percentiles_get_a_verdict_and_other_numbers_a_ratio(before, after, said):
    samples_us = np.random.default_rng(0).exponential(100, size=10_000)
    lines = by_name(summary(samples_us * before), summary(samples_us * after))
    for name in ("p50", "p90", "p99", "p999"):
        assert lines[name].endswith(said)
    assert lines["max"].split()[-1] == said.split()[0]


def test_files_without_a_common_number_have_nothing_to_compare():
    assert "nothing to compare" in compare({"a": 1}, {"b": 1})
