import numpy as np

from policy_server.bench.latency import middle_obs
from policy_server.control.client import PolicyClient


def test_the_middle_of_the_limits(served):
    with PolicyClient(served.endpoint, 10) as client:
        np.testing.assert_allclose(middle_obs(client.manifest), [0, 0, 0.01])
