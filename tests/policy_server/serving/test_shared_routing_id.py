"""Two clients with one routing id: the log says it, on every kind of front."""

import contextlib
import signal

import numpy as np
import pytest
import zmq

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind
from policy_server.transport.curve_client import connect_dealer, new_dealer
from policy_server.transport.keys import ClientKeys, make_keys

OBS = np.float32([0.1, -0.2, 0.01])


@pytest.mark.parametrize("way", ["tcp", "ipc", "keys"])
def test_two_dealers_with_one_routing_id_are_logged(start_server, bundle_path, tmp_path, way):
    keys = None
    options = []
    if way == "keys":
        make_keys(tmp_path / "keys", "r1")
        keys = ClientKeys.load(tmp_path / "keys" / "private" / "r1.key_secret")
        options = ["--keys", str(tmp_path / "keys")]
    where = f"ipc://{tmp_path}/s" if way == "ipc" else "tcp://127.0.0.1:*"
    server = start_server(bundle_path, where, options=options)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            own = new_dealer(b"twin", keys)
            stack.callback(own.close, 0)
            connect_dealer(own, server.endpoint)
            assert own.poll(20_000, zmq.POLLOUT)
            own.send(wire.encode(Header(Kind.ACT, sequence=1), wire.float_bytes(OBS)))
            assert own.poll(20_000), "the newer of the two gets its answer"
    server.process.send_signal(signal.SIGTERM)
    _, errors = server.process.communicate(timeout=30)
    lines = [line for line in errors.splitlines() if "routing_id_shared" in line]
    assert len(lines) == 1 and "session=0 sequence=1 last_sequence=1" in lines[0]
    assert ("connection_taken_over" in errors) == (way != "keys")
    assert "twin" not in errors  # An id is a secret: it opens the session.
