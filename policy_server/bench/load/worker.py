"""One process of the load generator, which `policy_server.bench.load.plan` starts.

It reads its part as a line of JSON from stdin, writes "ready", reads the common start time,
measures, writes "done", and keeps up its load until stdin ends. stdin ends too when the parent is
killed. Then it writes its samples.
"""

import json
import os
import select
import sys
import time
from typing import Any

import numpy as np

from policy_server.bench.load.channel import Channel, LocalChannel, SocketChannel
from policy_server.bench.load.generator import Generator, Timing
from policy_server.contract import wire
from policy_server.contract.clock import quiet
from policy_server.transport.keys import client_keys


def main() -> int:
    """Runs one process. Returns the exit status."""
    part = json.loads(sys.stdin.readline())
    try:
        channel = _channel(part)
    except (OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    _say("ready")
    line = sys.stdin.readline()
    if not line:
        return 0
    generator = Generator(channel, Timing(**part["timing"]))
    cpu_s = time.process_time()
    wall_s = time.monotonic()
    with quiet():
        samples = generator.run(int(line), _stdin_ended, lambda: _say("done"))
    cpu_share = (time.process_time() - cpu_s) / (time.monotonic() - wall_s)
    counts = np.array([generator.n_duplicate, generator.n_stray])
    samples["client"] += part["first_client"]
    channel.close()
    arrays: dict[str, Any] = {**samples, "counts": counts, "cpu_share": cpu_share}
    np.savez(part["out"], **arrays)
    return 0


def _channel(part: dict[str, Any]) -> Channel:
    """Returns the way to the server, or to the bundle's policy in this process."""
    obs = np.array(part["obs"], dtype=np.float32)
    if part["bundle"]:
        from policy_server.control.local import LocalPolicy

        return LocalChannel(LocalPolicy(part["bundle"], part["provider"]), obs)
    return SocketChannel(
        endpoint=part["endpoint"],
        n_clients=len(part["timing"]["phases_ns"]),
        payload=wire.float_bytes(obs),
        reply_bytes=part["reply_bytes"],
        timeout_s=part["connect_timeout_s"],
        keys=client_keys(part["keys"]),
    )


def _stdin_ended() -> bool:
    """Returns whether stdin ended. The parent writes nothing after the start time."""
    return bool(select.select([0], [], [], 0)[0])


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
