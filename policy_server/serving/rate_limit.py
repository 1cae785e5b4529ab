"""Ignores a peer for a while that sends bad messages faster than a token bucket allows."""

from collections import OrderedDict


class _Bucket:
    """Tokens that come back at a rate. Bad messages take them."""

    __slots__ = ("last_ns", "tokens")

    def __init__(self, tokens: float, now_ns: int):
        self.tokens = tokens
        self.last_ns = now_ns

    def take(self, now_ns: int, limit_per_s: float, burst: int) -> bool:
        """Takes one token. Returns False where there is none."""
        self.tokens = min(self.tokens + max(now_ns - self.last_ns, 0) * 1e-9 * limit_per_s, burst)
        self.last_ns = now_ns
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class BadMessageLimit:
    """Decides which peers are ignored because their bad messages came too fast.

    Each routing id has a bucket. A peer may take a new routing id with every connection, so all ids
    that are not `known` also share one bucket. While that one is empty, the first bad message of
    such an id blocks it. Good messages never count, so that a robot can connect while another peer
    sends rubbish.

    Args:
        limit_per_s: Bad messages a second that a peer may keep sending [1/s].
        burst: Bad messages that it may send at once.
        block_s: How long it is ignored after that [s].
        max_peers: Routing ids that are remembered. The one whose fault is oldest makes room.
    """

    def __init__(
        self, limit_per_s: float = 20, burst: int = 50, block_s: float = 10, max_peers: int = 1024
    ):
        self._limit_per_s = limit_per_s
        self._burst = burst
        self._max_peers = max_peers
        self._block_ns = int(block_s * 1e9)
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._blocked_until_ns: OrderedDict[bytes, int] = OrderedDict()
        self._strangers = _Bucket(burst, 0)
        self._strangers_logged_ns: int | None = None

    def allow(self, identity: bytes, now_ns: int) -> bool:
        """Returns whether a message of this peer is to be read.

        Args:
            identity: The peer's routing id.
            now_ns: Monotonic time [ns].
        """
        if not self._blocked_until_ns:
            return True
        until_ns = self._blocked_until_ns.get(identity)
        if until_ns is None:
            return True
        if now_ns < until_ns:
            return False
        del self._blocked_until_ns[identity]
        return True

    def bad(self, identity: bytes, now_ns: int, known: bool = False) -> bool:
        """Counts a bad message. Returns whether to log that the peer is blocked, once a block.

        Ids that the shared bucket blocks are logged together, once in `block_s`.

        Args:
            identity: The peer's routing id.
            now_ns: Monotonic time [ns].
            known: Whether it has sent good messages, so that it does not share the strangers'
                bucket.
        """
        if not self.allow(identity, now_ns):
            return False
        bucket = self._buckets.setdefault(identity, _Bucket(self._burst, now_ns))
        self._buckets.move_to_end(identity)
        _trim(self._buckets, self._max_peers)
        within = bucket.take(now_ns, self._limit_per_s, self._burst)
        shared = known or self._strangers.take(now_ns, self._limit_per_s, self._burst)
        if within and shared:
            return False
        self._blocked_until_ns[identity] = now_ns + self._block_ns
        self._blocked_until_ns.move_to_end(identity)
        _trim(self._blocked_until_ns, self._max_peers)
        return self._first_stranger(now_ns) if within else True

    def n_blocked(self, now_ns: int) -> int:
        """Returns the number of blocked peers."""
        return sum(until_ns > now_ns for until_ns in self._blocked_until_ns.values())

    def _first_stranger(self, now_ns: int) -> bool:
        """Returns whether no stranger was logged in the last `block_s`."""
        last_ns = self._strangers_logged_ns
        if last_ns is not None and now_ns - last_ns < self._block_ns:
            return False
        self._strangers_logged_ns = now_ns
        return True


def _trim(peers: OrderedDict, limit: int) -> None:
    if len(peers) > limit:
        peers.popitem(last=False)
