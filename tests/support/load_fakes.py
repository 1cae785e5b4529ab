"""A server of the tests' own, which does what a script says, and remembers."""

import time

from support.impostor import Impostor

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind, Status

REPLY_BYTES = 16


def ok(header):
    return wire.encode(Header(Kind.ACT_REPLY, 0, header.sequence), bytes(REPLY_BYTES))


def error(header, status):
    return wire.encode(Header(Kind.ERROR, status, header.sequence), b"no")


class FakeServer(Impostor):
    """`answer(header, n)` gives the frames that answer the n-th ACT, from 0.

    Attributes:
        headers: Of all ACTs so far.
        sessions: Routing ids of those that asked.
        stall_ns: (start, end) of the stall [ns].
    """

    def __init__(self, answer=lambda header, n: [ok(header)], manifest=None, stall=None):
        super().__init__(self._reply)
        self.headers, self.sessions, self.stall_ns = [], set(), None
        self._answer, self._manifest, self._stall = answer, manifest, stall

    def _reply(self, header):
        if header.kind == Kind.CONTROL:
            answer = {"manifest": self._manifest, "bundle_hash": "0" * 64, "provider": "fake"}
            reply = Header(Kind.CONTROL_REPLY, Status.OK, header.sequence)
            return [wire.encode(reply, wire.json_bytes(answer))]
        self.headers.append(header)
        self.sessions.add(self.seen[-1][0])
        self._stall_once()
        return self._answer(header, len(self.headers) - 1)

    def _stall_once(self):
        """`stall` = (at which ACT, how long [s])."""
        if self._stall and len(self.headers) == self._stall[0]:
            start_ns = time.monotonic_ns()
            time.sleep(self._stall[1])
            self.stall_ns = (start_ns, time.monotonic_ns())
