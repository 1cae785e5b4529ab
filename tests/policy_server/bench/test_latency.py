import numpy as np

from policy_server.bench.latency import bench_roundtrip, middle_obs
from policy_server.control.client import PolicyClient


def test_raw_samples_are_without_the_warmup(served):
    result = bench_roundtrip(served.endpoint, 50, np.zeros(3), warmup=10)
    assert result["samples_us"].shape == (50,)
    assert result["roundtrip_us"]["max"] == result["samples_us"].max()


def test_the_middle_of_the_limits(served):
    with PolicyClient(served.endpoint, 10) as client:
        np.testing.assert_allclose(middle_obs(client.manifest), [0, 0, 0.01])
