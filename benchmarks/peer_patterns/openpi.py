"""openpi's pattern: msgpack over a websocket. The client is openpi's own (PyPI openpi-client).

The server first sends packed metadata. Each binary message is then a packed dict of observations,
answered by a packed dict with `actions` and `server_timing`. An array is packed as {__ndarray__,
data, dtype, shape}, with byte strings as keys. openpi-client pins numpy < 2, so the client runs in
its own environment: this file imports nothing at its top that is missing there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def serve(policy: Callable[[np.ndarray], np.ndarray], ready: Callable[[str], None]) -> None:
    """Serves until the process ends; calls `ready` with the endpoint."""
    asyncio.run(_serve(policy, ready))


async def _serve(policy: Callable[[np.ndarray], np.ndarray], ready: Callable[[str], None]) -> None:
    import msgpack
    import websockets.asyncio.server as websocket_server
    from websockets.exceptions import ConnectionClosed

    async def answer(socket: Any) -> None:
        packer = msgpack.Packer(default=_pack)
        await socket.send(packer.pack({}))
        previous_ms = None
        while True:
            try:
                start = time.monotonic()
                obs = msgpack.unpackb(await socket.recv(), object_hook=_unpack)
                infer_start = time.monotonic()
                timing: dict[str, float] = {}
                reply = {"actions": policy(obs["state"]), "server_timing": timing}
                timing["infer_ms"] = (time.monotonic() - infer_start) * 1000
                if previous_ms is not None:
                    timing["prev_total_ms"] = previous_ms
                await socket.send(packer.pack(reply))
                previous_ms = (time.monotonic() - start) * 1000
            except ConnectionClosed:
                return

    async with websocket_server.serve(
        answer, "127.0.0.1", 0, compression=None, max_size=None
    ) as server:
        ready(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
        await server.serve_forever()


class Client:
    """openpi-client's WebsocketClientPolicy."""

    def __init__(self, endpoint: str):
        from openpi_client.websocket_client_policy import WebsocketClientPolicy

        self._client = WebsocketClientPolicy(endpoint)

    def act(self, obs: np.ndarray) -> dict[str, Any]:
        """Returns the server's dict."""
        return self._client.infer({"state": obs})

    def numbers(self, answer: dict[str, Any]) -> np.ndarray:
        """Returns the action (horizon, act_dim) of an answer of `act`."""
        return answer["actions"]


def _pack(value: Any) -> Any:
    """Returns what msgpack can write in place of an array."""
    if not isinstance(value, np.ndarray):
        return value
    return {
        b"__ndarray__": True,
        b"data": value.tobytes(),
        b"dtype": value.dtype.str,
        b"shape": value.shape,
    }


def _unpack(value: dict) -> Any:
    """Returns the array that `_pack` wrote, or the dict as it is."""
    if b"__ndarray__" not in value:
        return value
    return np.ndarray(value[b"shape"], np.dtype(value[b"dtype"]), value[b"data"])
