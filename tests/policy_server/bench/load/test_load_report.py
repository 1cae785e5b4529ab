import numpy as np
import pytest

from policy_server.bench.load.generator import BAD_REPLY, LOST
from policy_server.bench.load.load_report import latency_us, missed, table, warnings


def test_a_request_without_an_action_misses_every_deadline():
    columns = {
        "scheduled_ns": np.zeros(5, np.int64),
        "received_ns": np.array([1_000_000, 3_000_000, -1, 1_000, 1_000], np.int64),
        "status": np.array([0, 0, LOST, 5, BAD_REPLY]),
    }
    said = missed(latency_us(columns), 0.002)
    assert (said["n_missed"], said["n"], said["rate"]) == (4, 5, 0.8)
    assert said["ci"] == pytest.approx([0.3755, 0.9638], abs=1e-4)
    assert missed(latency_us(columns), None) is None


def test_what_a_reader_must_know_is_said():
    calm = {
        "bundle": None,
        "generator": {"cpu_share": [0.1]},
        "roundtrip_us": {"p99": 100.0},
        "n_duplicate": 0,
    }
    calm |= {"n_stray": 0, "send_late_us": {"p99": 10.0}}
    assert warnings(calm) == []
    assert "bottleneck" in warnings({**calm, "generator": {"cpu_share": [0.1, 0.95]}})[0]
    assert "sent late" in warnings({**calm, "send_late_us": {"p99": 60.0}})[0]
    assert warnings({**calm, "n_duplicate": 2}) == ["2 duplicate answers, 0 to requests never made"]


def test_a_table_says_what_went_wrong():
    one = {"n_clients": 4, "n": 100, "answered_hz": 50.0, "counts": {"OK": 98, "LOST": 2}}
    one |= {"roundtrip_us": {"p50": 12.34, "p90": 20.0, "p99": None, "p999": None, "max": 30.0}}
    missed = {"n": 100, "n_missed": 2, "deadline_s": 0.02, "rate": 0.02, "ci": [0.0055, 0.07]}
    one |= {"deadline": missed}
    row = table([one]).splitlines()[1]
    assert row.split()[:8] == ["4", "100", "50.0", "12.3", "20.0", "-", "-", "30.0"]
    assert row.endswith("2 of 100 later than 20 ms (2.00%, 95 % [0.55%, 7.00%]), 2 LOST")
