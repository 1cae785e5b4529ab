import numpy as np
import pytest

from policy_server.bench.compare import verdict
from policy_server.bench.latency import compare
from policy_server.bench.statistics import summary, wilson


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


def test_a_measurement_is_the_same_as_itself_and_slower_than_the_faster_one():
    samples_us = np.random.default_rng(0).exponential(100, size=10_000)
    before = {"sweep": {"clients_1": {"roundtrip_us": summary(samples_us)}}}
    lines = {line.split()[0]: line for line in compare(before, before).splitlines()[1:]}
    for name in ("p50", "p90", "p99", "p999"):
        assert lines[f"sweep.clients_1.roundtrip_us.{name}"].endswith(
            "1.000  same within the interval"
        )
    after = {"sweep": {"clients_1": {"roundtrip_us": summary(samples_us * 2)}}}
    for earlier, later, said in (
        (before, after, "2.000  slower"),
        (after, before, "0.500  faster"),
    ):
        lines = {line.split()[0]: line for line in compare(earlier, later).splitlines()[1:]}
        assert all(
            lines[f"sweep.clients_1.roundtrip_us.{name}"].endswith(said)
            for name in ("p50", "p90", "p99", "p999")
        )
        assert lines["sweep.clients_1.roundtrip_us.max"].split()[-1] == said.split()[0]


def test_missing_answers_are_the_slowest():
    """8 answers and 2 losses: the median is the 5th, p90 the 9th: lost."""
    said = summary(np.arange(1.0, 9.0), n_missing=2)
    assert (said["n"], said["n_missing"], said["p50"], said["p90"], said["max"]) == (
        10,
        2,
        5.0,
        None,
        8.0,
    )
    assert said["p50_ci"] == [2.0, None]  # the sign test's ranks 2 and 9
    nothing = summary(np.array([]), n_missing=3)
    assert nothing["n"] == 3 and nothing["p50"] is None and nothing["max"] is None
    assert summary(np.array([1.0]))["n"] == 1 and "n_missing" not in summary(np.array([1.0]))


def test_wilson_by_hand():
    """z = 1.95996: 0 of n leaves [0, z^2 / (n + z^2)]; 10 of 100 is the textbooks' [.0552, .1744]."""
    z2 = 1.959964**2
    assert wilson(0, 100) == pytest.approx((0, z2 / (100 + z2)), rel=1e-6)
    assert wilson(100, 100) == pytest.approx((100 / (100 + z2), 1), rel=1e-6)
    assert wilson(10, 100) == pytest.approx((0.05523, 0.17437), abs=1e-5)
    for hits, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="expected 0 <= hits"):
            wilson(hits, n)
