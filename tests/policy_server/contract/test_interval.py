import pytest

from policy_server.contract.interval import wilson


def test_wilson_by_hand():
    """z = 1.95996; 0 of n gives [0, z^2 / (n + z^2)], and 10 of 100 the known [.0552, .1744]."""
    z2 = 1.959964**2
    assert wilson(0, 100) == pytest.approx((0, z2 / (100 + z2)), rel=1e-6)
    assert wilson(100, 100) == pytest.approx((100 / (100 + z2), 1), rel=1e-6)
    assert wilson(10, 100) == pytest.approx((0.05523, 0.17437), abs=1e-5)
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)


@pytest.mark.parametrize(("n_hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_have_no_interval(n_hits, n):
    with pytest.raises(ValueError, match="must"):
        wilson(n_hits, n)
