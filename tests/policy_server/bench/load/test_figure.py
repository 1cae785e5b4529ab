import numpy as np

from policy_server.bench.load.figure import tail_curve


def test_the_tail_ends_at_one_over_n():
    latencies, share = tail_curve(np.array([3.0, 1.0, np.inf, 2.0]))
    assert latencies.tolist() == [1, 2, 3]
    assert share.tolist() == [1, 0.75, 0.5]
