"""Runs a hostile peer: `python -m soaking.attacker ENDPOINT OBS_DIM NICENESS`.

It reads one request a line, {n, rate_hz, seed}, and answers with what the server did. The server
knows a routing id after one good message and blocks it after about 50 bad ones. The peer therefore
takes a new id every N_PER_ID frames, so that most of them are looked at. One frame in ten goes to
its own connection and breaks ZeroMQ's protocol.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections import Counter, deque
from typing import Any

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind, Status
from policy_server.transport import zmtp
from policy_server.transport.address import AF_UNIX, address_of
from soaking.mutations import bad_stream, mutated, valid_frames

N_PER_ID = 60
RAW_SHARE = 0.1
N_HALF_OPEN = 32  # bad connections that are left hanging
ANSWER_S = 0.02  # how long to wait for the next answer
CONNECT_S = 5.0
LEAKS = re.compile(rb'Traceback|File "|\.py\b|(/[A-Za-z_]\w+){2}')  # an error must not contain this


class Connection:
    """A connection that can send anything."""

    def __init__(self, endpoint: str):
        family, address = address_of(endpoint)
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(CONNECT_S)
        self.socket.connect(address)
        if family != AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.decoder = zmtp.Decoder(wire.MAX_FRAME_BYTES)
        self.ended = False

    def shake_hands(self, identity: bytes) -> None:
        """Becomes a DEALER.

        Raises:
            OSError: The server ends the connection.
        """
        self.socket.sendall(zmtp.greeting() + zmtp.ready(b"DEALER", identity))
        greeting = b""
        while len(greeting) < zmtp.GREETING_BYTES:
            greeting += self._more(zmtp.GREETING_BYTES - len(greeting))
        while not self.decoder.feed(self._more(1 << 16)):
            pass

    def send(self, data: bytes) -> None:
        """Sends `data`; notes if the server has ended the connection."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.ended = True

    def answers(self, wait_s: float) -> list[bytes]:
        """Returns the messages that have come; waits up to `wait_s` for a first one."""
        if self.ended or not select.select((self.socket,), (), (), wait_s)[0]:
            return []
        try:
            frames = self.decoder.feed(self._more(1 << 16))
        except OSError:
            self.ended = True
            return []
        return [body for flags, body in frames if not flags & zmtp.COMMAND]

    def close(self) -> None:
        """Closes the connection at once."""
        self.socket.close()

    def _more(self, n: int) -> bytes:
        data = self.socket.recv(n)
        if not data:
            raise ConnectionResetError("closed by the server")
        return data


class Attacker:
    """Sends bad frames and counts what comes of them.

    Args:
        endpoint: The server's endpoint.
        obs_dim: Size of its policy's observation.
    """

    def __init__(self, endpoint: str, obs_dim: int):
        self._endpoint = endpoint
        self._frames = valid_frames(obs_dim)
        self._half_open: deque[Connection] = deque()
        self._connection: Connection | None = None
        self._owed = 0
        self._counts: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._leak = ""

    def attack(self, n: int, rate_hz: float, seed: int) -> dict[str, Any]:
        """Sends bad frames and returns what the server did.

        Args:
            n: How many frames.
            rate_hz: Their rate [1/s]; 0 means as fast as possible.
            seed: Seeds their choice.
        """
        rng = random.Random(seed)
        self._counts.clear()
        self._answers.clear()
        start_ns = time.monotonic_ns()
        for i in range(n):
            if rate_hz:
                time.sleep(max(start_ns + int(i / rate_hz * 1e9) - time.monotonic_ns(), 0) * 1e-9)
            if i % N_PER_ID == 0:
                self._renew()
            with contextlib.suppress(OSError):
                self._one(rng)
        self._finish()
        elapsed_s = (time.monotonic_ns() - start_ns) * 1e-9
        return {
            "n": n,
            "elapsed_s": elapsed_s,
            **self._counts,
            "answers": dict(self._answers),
            "leak": self._leak,
        }

    def _one(self, rng: random.Random) -> None:
        if rng.random() < RAW_SHARE or self._connection is None:
            self._counts["n_raw"] += 1
            self._raw(bad_stream(rng, self._frames))
            return
        self._counts["n_framed"] += 1
        self._connection.send(zmtp.frame(mutated(rng, self._frames)))
        self._owed += 1
        self._hear(0)

    def _raw(self, data: bytes) -> None:
        """Sends bytes on a new connection, and leaves that open for a while."""
        connection = Connection(self._endpoint)
        connection.send(data)
        self._half_open.append(connection)
        if len(self._half_open) > N_HALF_OPEN:
            oldest = self._half_open.popleft()
            while not oldest.ended and select.select((oldest.socket,), (), (), 0)[0]:
                try:
                    oldest.ended = not oldest.socket.recv(1 << 16)
                except OSError:
                    oldest.ended = True
            self._counts["n_raw_ended"] += oldest.ended
            oldest.close()

    def _renew(self) -> None:
        """Takes a new routing id and sends one good message with it."""
        self._finish()
        self._counts["n_ids"] += 1
        try:
            connection = Connection(self._endpoint)
            connection.shake_hands(b"h" + os.urandom(16))
            connection.send(zmtp.frame(self._frames[0]))
        except OSError:
            self._counts["n_ids_refused"] += 1
            return
        self._counts["n_good_unanswered"] += not connection.answers(1.0)
        self._connection = connection

    def _hear(self, wait_s: float) -> None:
        """Counts the answers that have come."""
        assert self._connection is not None
        for data in self._connection.answers(wait_s):
            self._owed -= 1
            header, payload = wire.decode(data)
            self._answers[_name(header)] += 1
            if header.kind == Kind.ERROR and LEAKS.search(payload):
                self._leak = bytes(payload).decode(errors="replace")

    def _finish(self) -> None:
        """Counts what the server still answers to this id; the rest was ignored."""
        if self._connection is None:
            return
        owed = self._owed + 1
        while 0 < self._owed < owed:  # until nothing comes
            owed = self._owed
            self._hear(ANSWER_S)
        self._counts["n_ignored"] += self._owed
        self._counts["n_framed_ended"] += self._connection.ended
        self._connection.close()
        self._connection = None
        self._owed = 0


def _name(header: Header) -> str:
    return Status(header.status).name if header.kind == Kind.ERROR else Kind(header.kind).name


def main(endpoint: str, obs_dim: str, niceness: str) -> None:
    """Answers requests until stdin ends."""
    os.nice(int(niceness))
    attacker = Attacker(endpoint, int(obs_dim))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(attacker.attack(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
