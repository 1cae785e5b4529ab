"""A server that answers robots with a bundle's policy over ZeroMQ.

One thread: it takes every message that waits, stamps its arrival, and answers in that order. Each client
(ZeroMQ routing id) has a session with noise of its own, see `policy_server.noise`.
"""

import contextlib
import signal
import threading
import time
from collections import Counter, OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from policy_server import wire
from policy_server.backends import BackendError, Provider, load
from policy_server.bundle import Bundle, Precision
from policy_server.endpoint import ServerError, check_bind
from policy_server.noise import NoiseStream
from policy_server.stats import Histogram
from policy_server.wire import Header, Kind, Status, WireError

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5599"
MAX_SESSIONS = 1024
MAX_QUEUE = 256
_POLL_MS = 100
_TIMES = ("queue_us", "inference_us", "server_us")


class _Session:
    """One client: its number on this server and its noise."""

    def __init__(self, ordinal: int, noise: NoiseStream):
        self.ordinal = ordinal
        self.noise = noise


class PolicyServer:
    """Serves one bundle on one endpoint.

    Attributes:
        endpoint: Where it listens, the real port included.
        provider: Provider in use.

    Args:
        bundle_path: Folder of the bundle; it must pass its self-test on this machine.
        endpoint: tcp://127.0.0.1:PORT (port * picks a free one) or ipc://PATH.
        provider: auto, cpu, cuda or tensorrt.
        seed: Seed of the sessions' noise.
        precision: fp32, or fp16 or int8 where the bundle has it.

    Raises:
        BundleError: The bundle is refused.
        BackendError: The provider is missing, or the golden vectors come out differently.
        ServerError: The endpoint is in use or not allowed.
    """

    def __init__(
        self,
        bundle_path: str | Path,
        endpoint: str = DEFAULT_ENDPOINT,
        provider: Provider = "auto",
        seed: int = 0,
        precision: Precision = "fp32",
    ):
        check_bind(endpoint)
        self._bundle = Bundle.load(bundle_path)
        self._manifest = self._bundle.manifest
        self._backend = load(self._bundle, provider, precision=precision)
        self._self_test_error = self._backend.self_test()
        self.provider = self._backend.provider
        _check_sizes(self._bundle)
        self._seed = seed
        self._valid_us = round(self._manifest.n_action_steps * self._manifest.control_period_s * 1e6)
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._n_sessions = 0
        self._counts: Counter[str] = Counter()
        self._times = {name: Histogram() for name in _TIMES}
        self._queue: deque[tuple[list[bytes], int]] = deque()
        self._started_ns = time.monotonic_ns()
        self._stop = threading.Event()
        self._socket = _bind(endpoint)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def run(self) -> None:
        """Serves until SIGTERM, SIGINT or `stop`, then closes the socket. Prints one line when ready."""
        previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                previous[number] = signal.signal(number, lambda *_: self._stop.set())
        name, short_hash = self._manifest.name, self._bundle.hash[:12]
        print(f"serving {name} ({short_hash}) on {self.endpoint}, provider {self.provider}", flush=True)
        try:
            while not self._stop.is_set():
                if self._queue or self._socket.poll(_POLL_MS):
                    self._receive()
                    if self._queue:
                        self._answer(*self._queue.popleft())
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.close()

    def stop(self) -> None:
        """Makes `run` return within 100 ms; may be called from another thread."""
        self._stop.set()

    def close(self) -> None:
        """Closes the socket; messages not yet sent are dropped."""
        self._socket.close(linger=0)

    def _receive(self) -> None:
        """Moves every waiting message to the queue, with its time of arrival."""
        with contextlib.suppress(zmq.Again):
            while len(self._queue) < MAX_QUEUE:
                self._queue.append((self._socket.recv_multipart(zmq.NOBLOCK), time.monotonic_ns()))

    def _answer(self, parts: list[bytes], arrival_ns: int) -> None:
        """Answers one message; whatever it holds, the answer is a reply or a typed error."""
        identity, sequence = parts[0], 0
        try:
            if len(parts) != 2:
                raise WireError(Status.MALFORMED, f"message of {len(parts) - 1} frames, expected one")
            header, payload = wire.decode(parts[1])
            sequence = header.sequence
            session = self._session(identity)
            if header.kind == Kind.ACT:
                reply = self._act(session, header, payload, arrival_ns)
            elif header.kind == Kind.CONTROL:
                reply = self._control(session, header, payload)
            else:
                raise WireError(Status.UNKNOWN_TYPE, f"{Kind(header.kind).name} is what a server sends", sequence)
            self._counts[Status.OK.name] += 1
        except WireError as error:
            reply = self._error(error.status, str(error), sequence or error.sequence)
        except Exception as error:  # a bug here must not stop the robots of the other sessions
            reply = self._error(Status.INTERNAL, f"{type(error).__name__}: {error}", sequence)
        self._send(identity, reply)

    def _act(self, session: _Session, header: Header, payload: memoryview, arrival_ns: int) -> bytes:
        """Returns the frame that answers an observation. Raises WireError for a bad or late one."""
        start_ns = time.monotonic_ns()
        queue_us = (start_ns - arrival_ns) // 1000
        if 0 < header.budget_us < queue_us:
            raise WireError(
                Status.LATE, f"waited {queue_us} us, budget was {header.budget_us} us: not computed; lower the load"
            )
        obs = wire.floats(payload, (1, self._manifest.obs_dim), header.sequence)
        try:
            action = self._backend.act(obs, session.noise.draw())
        except BackendError as error:
            raise WireError(Status.INTERNAL, str(error)) from error
        end_ns = time.monotonic_ns()
        if not np.isfinite(action).all():
            raise WireError(Status.INTERNAL, "the policy answered NaN or infinity to a finite obs; not sent")
        inference_us, server_us = (end_ns - start_ns) // 1000, (end_ns - arrival_ns) // 1000
        for name, value_us in zip(_TIMES, (queue_us, inference_us, server_us), strict=True):
            self._times[name].add(value_us)
        reply = header._replace(kind=Kind.ACT_REPLY, status=Status.OK, budget_us=0, queue_us=queue_us)
        reply = reply._replace(inference_us=inference_us, server_us=server_us, valid_us=self._valid_us)
        return wire.encode(reply, wire.float_bytes(action))

    def _control(self, session: _Session, header: Header, payload: memoryview) -> bytes:
        """Returns the frame that answers a control request. Raises WireError for an unknown one."""
        request = wire.parse_object(payload, header.sequence)
        op = request.get("op")
        if op == "hello":
            answer = self._hello(session)
        elif op == "reset":
            answer = self._reset(session, request)
        elif op == "health":
            answer = {"status": "ok", "uptime_s": (time.monotonic_ns() - self._started_ns) * 1e-9}
        elif op == "stats":
            answer = self._stats()
        elif op == "reload":
            raise WireError(Status.UNSUPPORTED, "reload is not supported by this version; restart the server")
        else:
            raise WireError(Status.UNSUPPORTED, f"op {op!r}: expected hello, reset, health or stats")
        reply = header._replace(kind=Kind.CONTROL_REPLY, status=Status.OK, budget_us=0)
        return wire.encode(reply, wire.json_bytes(answer))

    def _hello(self, session: _Session) -> dict[str, Any]:
        return {
            "wire_version": wire.VERSION,
            "bundle_hash": self._bundle.hash,
            "manifest": self._manifest.to_dict(),
            "provider": self.provider,
            "self_test_error": self._self_test_error,
            "seed": self._seed,
            "session": session.ordinal,
        }

    def _reset(self, session: _Session, request: dict[str, Any]) -> dict[str, Any]:
        seed = request.get("seed")
        try:
            session.noise.reset(seed)
        except ValueError as error:
            raise WireError(Status.MALFORMED, str(error)) from error
        return {"seed": seed}

    def _stats(self) -> dict[str, Any]:
        """Returns counts by status and summaries of the served requests' times."""
        times = {name: histogram.to_json() for name, histogram in self._times.items()}
        return {"counts": dict(self._counts), "n_sessions": len(self._sessions), **times}

    def _session(self, identity: bytes) -> _Session:
        """Returns the client's session, a new one for a new client; the longest silent one makes room."""
        if identity not in self._sessions:
            noise = NoiseStream(self._manifest.latent_dim, self._seed, self._n_sessions)
            self._sessions[identity] = _Session(self._n_sessions, noise)
            self._n_sessions += 1
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(identity)
        return self._sessions[identity]

    def _error(self, status: Status, message: str, sequence: int) -> bytes:
        self._counts[status.name] += 1
        return wire.encode(Header(Kind.ERROR, status, sequence), message[:1000].encode(errors="replace"))

    def _send(self, identity: bytes, frame: bytes) -> None:
        """Sends without waiting: a client that is gone, or does not read, loses its reply."""
        try:
            self._socket.send_multipart([identity, frame], zmq.NOBLOCK)
        except zmq.ZMQError:
            self._counts["undeliverable"] += 1


def _bind(endpoint: str) -> zmq.Socket:
    """Returns a ROUTER bound to `endpoint`. Raises ServerError where that fails."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an undeliverable reply is an error to count, not lost in silence
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that reconnects before its old connection is seen dead
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
    socket.setsockopt(zmq.IPV6, "[" in endpoint)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        hint = "; stop the other process or choose another --bind" if error.errno == zmq.EADDRINUSE else ""
        raise ServerError(f"cannot listen on {endpoint}: {zmq.strerror(error.errno or 0)}{hint}") from error
    return socket


def _check_sizes(bundle: Bundle) -> None:
    """Raises ServerError where a message of this policy would be longer than the wire allows."""
    manifest = bundle.manifest
    sizes = {
        "obs": 4 * manifest.obs_dim,
        "action": 4 * manifest.horizon * manifest.act_dim,
        "manifest": len(wire.json_bytes(manifest.to_dict())) + 1024,
    }
    for name, n_bytes in sizes.items():
        if n_bytes + wire.HEADER_BYTES > wire.MAX_FRAME_BYTES:
            raise ServerError(f"{name} needs {n_bytes} bytes, a message holds at most {wire.MAX_FRAME_BYTES}")
