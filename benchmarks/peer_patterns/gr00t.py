"""GR00T's pattern: ZeroMQ REQ/REP, msgpack, each array as the bytes of an .npy file.

The request is {endpoint, data}. `get_action` takes data {observation, options} and answers [action,
info], both dicts. An array is packed as {__ndarray_class__: true, as_npy: bytes}.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import zmq


def serve(policy: Callable[[np.ndarray], np.ndarray], ready: Callable[[str], None]) -> None:
    """Serves until the process ends; calls `ready` with the endpoint."""

    def get_action(
        observation: dict[str, Any], options: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"action": policy(observation["state"])}, {}

    endpoints = {"get_action": get_action}
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind("tcp://127.0.0.1:*")
    ready(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    while True:
        request = _loads(socket.recv())
        socket.send(_dumps(endpoints[request["endpoint"]](**request["data"])))


class Client:
    """A REQ socket that waits for each answer."""

    def __init__(self, endpoint: str):
        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.connect(endpoint)

    def act(self, obs: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns (action, info)."""
        data = {"observation": {"state": obs}, "options": None}
        self._socket.send(_dumps({"endpoint": "get_action", "data": data}))
        action, info = _loads(self._socket.recv())
        return action, info

    def numbers(self, answer: tuple[dict[str, np.ndarray], dict[str, Any]]) -> np.ndarray:
        """Returns the action (horizon, act_dim) of an answer of `act`."""
        return answer[0]["action"]


def _dumps(value: Any) -> bytes:
    return msgpack.Packer(default=_pack).pack(value)


def _loads(data: bytes) -> Any:
    return msgpack.unpackb(data, object_hook=_unpack)


def _pack(value: Any) -> Any:
    """Returns what msgpack can write in place of an array."""
    if not isinstance(value, np.ndarray):
        return value
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _unpack(value: dict) -> Any:
    """Returns the array that `_pack` wrote, or the dict as it is."""
    if "__ndarray_class__" not in value:
        return value
    return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
