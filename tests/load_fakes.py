"""A server of the tests' own, which does what a script says, and remembers."""

import threading
import time

import zmq

from policy_server import wire
from policy_server.wire import Header, Kind, Status

REPLY_BYTES = 16


def ok(header):
    return wire.encode(Header(Kind.ACT_REPLY, 0, header.sequence), bytes(REPLY_BYTES))


def error(header, status):
    return wire.encode(Header(Kind.ERROR, status, header.sequence), b"no")


class FakeServer:
    """A ROUTER in a thread. `answer(header, n)` gives the frames that answer the n-th ACT, from 0.

    Attributes:
        headers: Of all ACTs so far.
        sessions: Routing ids of those that asked.
        stall_ns: (start, end) of the stall [ns].
    """

    def __init__(self, answer=lambda header, n: [ok(header)], manifest=None, stall=None):
        self.headers, self.sessions, self.stall_ns = [], set(), None
        self._answer, self._manifest, self._stall = answer, manifest, stall
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 0
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join(10)
        self._socket.close(linger=0)

    def _run(self):
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            identity, frame = self._socket.recv_multipart()
            header, _ = wire.decode(frame)
            if header.kind == Kind.CONTROL:
                answer = {"manifest": self._manifest, "bundle_hash": "0" * 64, "provider": "fake"}
                reply = Header(Kind.CONTROL_REPLY, Status.OK, header.sequence)
                self._socket.send_multipart([identity, wire.encode(reply, wire.json_bytes(answer))])
                continue
            self.headers.append(header)
            self.sessions.add(identity)
            self._stall_once()
            for reply in self._answer(header, len(self.headers) - 1):
                self._socket.send_multipart([identity, reply])

    def _stall_once(self):
        """`stall` = (at which ACT, how long [s])."""
        if self._stall and len(self.headers) == self._stall[0]:
            start_ns = time.monotonic_ns()
            time.sleep(self._stall[1])
            self.stall_ns = (start_ns, time.monotonic_ns())
