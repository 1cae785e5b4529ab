"""`edp top`: a running server, live in the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path


def top(
    server: str = "tcp://127.0.0.1:5599",
    interval_s: float = 1.0,
    once: bool = False,
    json: bool = False,
    keys: Path | None = None,
) -> int:
    """Watch a running server: rates, latencies, misses and sessions.

    Example: edp top --server tcp://127.0.0.1:5599 --interval-s 2

    Args:
        server: Endpoint of the server.
        interval_s: Between two looks [s].
        once: Print one frame and end.
        json: Print one JSON object a line instead of a screen.
        keys: A client's NAME.key_secret, or the folder with it and server.key, for a server with keys.
    """
    from policy_server.observe.top import watch
    from policy_server.transport.keys import client_keys

    with contextlib.suppress(KeyboardInterrupt):
        watch(server, interval_s, once, json, client_keys(keys))
    return 0
