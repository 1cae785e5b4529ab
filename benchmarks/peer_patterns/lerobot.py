"""LeRobot's pattern: gRPC with pickled observations and actions, two calls an action.

SendObservations (a stream of chunks, here one, as for all below 2 MB) puts the observation into a
queue of length 1. GetActions takes it from there, computes, and answers a list of time-stamped
actions.

PICKLE is used here and nowhere else in this repository, because it is what is measured: every peer
that reaches such a port can run code in the server (CVE-2026-25874). The server listens on loopback
and lives as long as the benchmark.

These differences favour the pattern: bytes go straight to gRPC without protobuf around them; arrays
replace torch tensors; there is no sleep up to `inference_latency` (33 ms by default); each client
has a queue, since one queue for all mixes up robots. One difference does not: LeRobot's client may
wait in GetActions before it sends, from a second thread. That saved 7 % of one client's time here,
but it deadlocks with more clients than the server's four workers.
"""

from __future__ import annotations

import pickle  # the pattern under measurement, see above
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from typing import Any

import grpc
import numpy as np

SERVICE = "transport.AsyncInference"
PERIOD_S = 0.01
N_WORKERS = 4  # LeRobot's default


@dataclass
class TimedObservation:
    """An observation, when it was made [s], its number, and whether it must be answered."""

    timestamp: float
    timestep: int
    observation: dict[str, Any]
    must_go: bool = True


@dataclass
class TimedAction:
    """One action (act_dim,), when it is due [s], and its number."""

    timestamp: float
    timestep: int
    action: np.ndarray


class _Servicer:
    """The two calls of the service."""

    def __init__(self, policy: Callable[[np.ndarray], np.ndarray]):
        self._policy = policy
        self._queues: defaultdict[str, Queue] = defaultdict(lambda: Queue(maxsize=1))

    def send_observations(self, chunks: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Replaces the client's queued observation."""
        observation = pickle.loads(b"".join(chunks))
        queue = self._queues[context.peer()]
        if queue.full():
            queue.get_nowait()
        queue.put(observation)
        return b""

    def get_actions(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        """Returns the pickled list of TimedAction for the client's queued observation."""
        observation = self._queues[context.peer()].get(timeout=2)
        actions = self._policy(observation.observation["state"])
        timed = [
            TimedAction(observation.timestamp + i * PERIOD_S, observation.timestep + i, action)
            for i, action in enumerate(actions)
        ]
        return pickle.dumps(timed)


def serve(policy: Callable[[np.ndarray], np.ndarray], ready: Callable[[str], None]) -> None:
    """Serves until the process ends; calls `ready` with the endpoint."""
    servicer = _Servicer(policy)
    calls = {
        "SendObservations": grpc.stream_unary_rpc_method_handler(servicer.send_observations),
        "GetActions": grpc.unary_unary_rpc_method_handler(servicer.get_actions),
    }
    server = grpc.server(ThreadPoolExecutor(N_WORKERS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(f"127.0.0.1:{port}")
    server.wait_for_termination()


class Client:
    """A channel with its own connection; sends an observation, then asks for its actions."""

    def __init__(self, endpoint: str):
        self._channel = grpc.insecure_channel(endpoint, [("grpc.use_local_subchannel_pool", 1)])
        self._send = self._channel.stream_unary(f"/{SERVICE}/SendObservations")
        self._get = self._channel.unary_unary(f"/{SERVICE}/GetActions")
        self._timestep = 0

    def act(self, obs: np.ndarray) -> list[TimedAction]:
        """Returns the chunk of actions."""
        self._timestep += 1
        observation = TimedObservation(time.time(), self._timestep, {"state": obs})
        self._send(iter((pickle.dumps(observation),)), wait_for_ready=True)
        return pickle.loads(self._get(b""))

    def numbers(self, answer: list[TimedAction]) -> np.ndarray:
        """Returns the action (horizon, act_dim) of an answer of `act`."""
        return np.stack([timed.action for timed in answer])
