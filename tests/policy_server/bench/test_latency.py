import json

import numpy as np

from policy_server.bench.compare import compare
from policy_server.bench.host import host
from policy_server.bench.latency import bench_roundtrip, middle_obs
from policy_server.bench.load.figure import tail_curve
from policy_server.control.client import PolicyClient


def test_raw_samples_are_without_the_warmup(served):
    result = bench_roundtrip(served.endpoint, 50, np.zeros(3), warmup=10)
    assert result["samples_us"].shape == (50,)
    assert result["roundtrip_us"]["max"] == result["samples_us"].max()


def test_the_middle_of_the_limits(served):
    with PolicyClient(served.endpoint, 10) as client:
        np.testing.assert_allclose(middle_obs(client.manifest), [0, 0, 0.01])


def test_the_tail_ends_at_one_over_n():
    latencies, share = tail_curve(np.array([3.0, 1.0, np.inf, 2.0]))
    assert latencies.tolist() == [1, 2, 3]
    assert share.tolist() == [1, 0.75, 0.5]


def test_the_host_says_what_a_latency_depends_on():
    here = host()
    names = {"cpu", "n_cores", "governor", "virtual_machine", "kernel", "load_average"}
    assert names | {"commit", "python", "numpy"} <= here.keys()
    assert json.dumps(here, allow_nan=False)
