"""A server that answers by a script and records what it is asked."""

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
    """A server that answers the n-th ACT, from 0, with the frames of `answer(header, n)`.

    Attributes:
        headers: Headers of all ACTs so far.
        sessions: Routing ids of the clients.
        stall_ns: (start, end) of the stall [ns].

    Args:
        answer: Returns the frames of an answer.
        manifest: Manifest to tell a client that says hello.
        stall: (n, how long [s]): stalls once, before the answer to the n-th ACT, from 1.
    """

    def __init__(self, answer=lambda header, n: [ok(header)], manifest=None, stall=None):
        super().__init__(self._reply)
        self.headers = []
        self.sessions = set()
        self.stall_ns = None
        self._answer = answer
        self._manifest = manifest
        self._stall = stall

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
        if self._stall and len(self.headers) == self._stall[0]:
            start_ns = time.monotonic_ns()
            time.sleep(self._stall[1])
            self.stall_ns = (start_ns, time.monotonic_ns())
