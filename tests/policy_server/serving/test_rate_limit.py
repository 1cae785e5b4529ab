"""When a peer that sends bad messages is ignored, by hand-counted tokens."""

import pytest

from policy_server.serving.rate_limit import BadMessageLimit

S = 10**9
T0 = 5 * S


def bad(limit, identity, now_ns, n, **known):
    return [limit.bad(identity, now_ns, **known) for _ in range(n)]


def test_the_burst_passes_and_the_next_one_blocks_for_block_s():
    limit = BadMessageLimit(limit_per_s=2, burst=3, block_s=10)
    assert bad(limit, b"a", T0, 3) == [False] * 3 and limit.allow(b"a", T0)
    assert bad(limit, b"a", T0, 2) == [True, False]  # One line a block.
    assert not limit.allow(b"a", T0) and not limit.allow(b"a", T0 + 10 * S - 1)
    assert limit.allow(b"b", T0) and limit.n_blocked(T0) == 1
    assert limit.allow(b"a", T0 + 10 * S) and limit.n_blocked(T0 + 10 * S) == 0
    # The second block is logged again.
    assert bad(limit, b"a", T0 + 10 * S, 4) == [False, False, False, True]


def test_tokens_come_back_at_the_rate():
    limit = BadMessageLimit(limit_per_s=2, burst=3)
    bad(limit, b"a", T0, 3)
    assert limit.bad(b"a", T0 + S // 2) is False  # 0.5 s x 2/s: exactly one token.
    assert limit.bad(b"a", T0 + S // 2 + S // 2 - 1) is True  # One nanosecond short of the next.


@pytest.mark.parametrize(("per_s", "blocked"), [(2, False), (3, True)])
def test_only_more_than_the_rate_is_too_much(per_s, blocked):
    limit = BadMessageLimit(limit_per_s=2, burst=3)
    assert any(limit.bad(b"a", T0 + i * S // per_s) for i in range(100)) == blocked


def test_new_ids_share_a_bucket_so_that_reconnecting_does_not_help():
    limit = BadMessageLimit(limit_per_s=2, burst=3, block_s=10)
    ids = [b"%d" % i for i in range(10)]
    answers = [limit.bad(i, T0) for i in ids]
    assert answers == [False] * 3 + [True] + [False] * 6  # One line for all of them.
    assert [limit.allow(i, T0) for i in ids] == [True] * 3 + [False] * 7
    assert limit.allow(b"newcomer", T0)
    assert limit.bad(b"later", T0 + 10 * S) is False and limit.allow(b"later", T0 + 10 * S)


def test_a_known_peer_is_judged_by_its_own_bucket():
    limit = BadMessageLimit(limit_per_s=2, burst=3)
    for i in range(10):
        limit.bad(b"%d" % i, T0)
    assert bad(limit, b"robot", T0, 3, known=True) == [False] * 3 and limit.allow(b"robot", T0)
    assert limit.bad(b"robot", T0, known=True) is True
    assert limit.bad(b"stranger", T0) is False and not limit.allow(b"stranger", T0)


def test_memory_is_bounded_and_a_clock_may_stand_still():
    limit = BadMessageLimit(limit_per_s=2, burst=1, max_peers=4)
    for i in range(100):
        limit.bad(b"%d" % i, T0 - i)
    assert limit.n_blocked(T0) == 4
    assert len(limit._buckets) == 4 and len(limit._blocked_until_ns) == 4
    assert not limit.allow(b"99", T0) and limit.allow(b"1", T0)
