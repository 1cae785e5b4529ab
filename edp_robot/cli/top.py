"""`edp top`: watches a running server in the terminal."""

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
    """Watch a running server: rates, latencies, missed deadlines and sessions.

    Example: edp top --server tcp://127.0.0.1:5599 --interval-s 2

    Args:
        server: Endpoint of the server.
        interval_s: Time between two looks [s].
        once: Print one frame and end.
        json: Print one JSON object a line instead of a screen.
        keys: This client's NAME.key_secret, or the folder that holds it and server.key.
    """
    from policy_server.control.client import PolicyClient
    from policy_server.observe.top import watch
    from policy_server.transport.keys import client_keys

    with (
        contextlib.suppress(KeyboardInterrupt),
        PolicyClient(server, timeout_s=2.0, keys=client_keys(keys)) as client,
    ):
        watch(client, interval_s, once=once, as_json=json)
    return 0
