"""A clock whose time passes only where a test says so."""

from policy_server.contract.clock import Clock


class FakeClock:
    """Time that passes by sleeping, by looking (1 us each), and by adding to `t_ns`.

    Args:
        oversleep_s: How much longer every sleep takes than asked for [s].
    """

    def __init__(self, oversleep_s=0.0):
        self.t_ns = 5_000_000_000
        self.oversleep_s = oversleep_s
        self.clock = Clock(self.now_ns, self.sleep)

    def now_ns(self):
        self.t_ns += 1000
        return self.t_ns

    def sleep(self, seconds):
        assert seconds > 0
        self.t_ns += round((seconds + self.oversleep_s) * 1e9)
