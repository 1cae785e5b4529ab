"""Answers robots with a bundle's policy over ZeroMQ.

One thread takes the messages that have come, checks them, and computes the longest waiting
observations in one batch. Each client (ZeroMQ routing id) has a session with its own noise and room
for one waiting observation. See `policy_server.serving.sessions`, `policy_server.serving.scheduler`
and docs/wire.md.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from policy_server.contract import wire
from policy_server.contract.choices import Precision, Provider
from policy_server.contract.noise import check_seed
from policy_server.contract.signals import Handler, handling
from policy_server.contract.wire import Header, Kind, Status, WireError
from policy_server.observe.logs import Occasional, log
from policy_server.observe.monitor import Monitor
from policy_server.serving.control_requests import ControlRequests
from policy_server.serving.scheduler import Waiting
from policy_server.serving.served_policy import ServedPolicy
from policy_server.serving.sessions import Request, Session
from policy_server.serving.state import ServerState
from policy_server.transport.address import check_bind
from policy_server.transport.front import listen
from policy_server.transport.keys import ServerKeys

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5599"
DRAIN_S = 1.0
LINGER_S = 0.2
_WAIT_S = 0.1  # Longest sleep before the loop checks whether it shall end.
_LOG_PERIOD_S = 10.0
_REQUESTS = {Kind.ACT, Kind.CONTROL}
_HARMLESS = {Status.UNSUPPORTED, Status.REFUSED, Status.NOT_FINITE}  # No sign of an attack.


class PolicyServer:
    """Serves one bundle on one endpoint.

    Attributes:
        endpoint: The endpoint it listens on, with the real port.
        state: The policy in service, the clients and the counts.
        requests: The control plane.

    Args:
        bundle_path: Folder of the bundle, which must pass its self-test on this machine.
        endpoint: tcp://127.0.0.1:PORT (port * picks a free one) or ipc://PATH.
        provider: auto, cpu, cuda or tensorrt.
        seed: Seeds the sessions' noise.
        precision: fp32, or fp16 or int8 if the bundle has it.
        keys: The server's keys, required off loopback. None: clients need none.
        monitor: Shows this server to Prometheus.
        busy_poll_s: Time to poll for the next message before sleeping [s].
        backend: Inference backend: a registered name, or `package.module:attribute`.

    Raises:
        BundleError: The bundle is damaged or inconsistent.
        BackendError: The provider is missing, or the golden vectors come out differently.
        ServerError: The endpoint is in use or not allowed.
        ValueError: The seed is not a whole number in [0, 2^63), or busy_poll_s is not in [0, 0.1].
    """

    def __init__(
        self,
        bundle_path: str | Path,
        endpoint: str = DEFAULT_ENDPOINT,
        provider: Provider = "auto",
        seed: int = 0,
        precision: Precision = "fp32",
        keys: ServerKeys | None = None,
        monitor: Monitor | None = None,
        busy_poll_s: float = 0.0,
        backend: str = "onnxruntime",
    ):
        check_bind(endpoint, has_keys=keys is not None)
        check_seed(seed)
        if not 0 <= busy_poll_s <= _WAIT_S:
            raise ValueError(f"busy_poll_s {busy_poll_s}: expected 0 to {_WAIT_S} s")
        load = partial(ServedPolicy, bundle_path, provider, precision, backend)
        policy = load()
        self.state = ServerState(policy, listen(endpoint, keys), seed)
        self.endpoint = self.state.front.endpoint
        self.requests = ControlRequests(self.state, load)
        self._monitor = monitor
        self._busy_poll_ns = int(busy_poll_s * 1e9)
        self._heard = False
        self._failures = Occasional(_LOG_PERIOD_S)
        self._shared = Occasional(_LOG_PERIOD_S)
        self._stop = threading.Event()

    def run(self, reload_first: Callable[[], bool] = lambda: False) -> None:
        """Serves until SIGTERM, SIGINT or `stop`, then answers what waits and closes.

        Prints one line when it is ready. SIGHUP loads the bundle again.

        Args:
            reload_first: Asked once, when SIGHUP is handled here: whether to load the bundle again
                because the caller had a SIGHUP before.
        """
        if self._monitor is not None:
            self._monitor.attach(self.state)
        gc.collect()
        gc.freeze()  # Later collections need not look at what is here now.
        with handling(self._handlers()):  # Until it is closed: a second signal must not cut that.
            try:
                if reload_first():
                    self.requests.ask_reload()
                self._say_ready()
                while not self._stop.is_set():
                    self._turn(wait=not self.state.scheduler)
                self._drain()
            finally:
                self.close()

    def stop(self) -> None:
        """Makes `run` end. Any thread may call it."""
        self._stop.set()

    def close(self) -> None:
        """Closes, waits for a reload under way, and gives replies LINGER_S to leave."""
        self.state.front.close(LINGER_S)
        self.requests.close()

    def _handlers(self) -> dict[int, Handler]:
        """Returns what signals do: SIGTERM and SIGINT end the server, SIGHUP reloads."""
        handlers: dict[int, Handler] = {
            signal.SIGTERM: lambda *_: self.stop(),
            signal.SIGINT: lambda *_: self.stop(),
        }
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = lambda *_: self.requests.ask_reload()
        return handlers

    def _say_ready(self) -> None:
        policy = self.state.policy
        name = policy.manifest.name
        bundle_hash = policy.bundle.hash
        log(
            "serving",
            policy=name,
            bundle_hash=bundle_hash,
            endpoint=self.endpoint,
            provider=policy.provider,
        )
        where = f"on {self.endpoint}, provider {policy.provider}"
        print(f"serving {policy.manifest.shown_name} ({bundle_hash[:12]}) {where}", flush=True)

    def _turn(self, wait: bool) -> bool:
        """Takes what has come and computes one batch. Returns whether there was anything to do."""
        state = self.state
        messages = self._receive(wait)
        arrival_ns = time.monotonic_ns()
        state.ticked_ns = arrival_ns
        for identity, frames in messages:
            self._take(identity, frames, arrival_ns)
        self._compute()
        self.requests.poll()
        if self._monitor is not None:
            self._monitor.poll()
        return bool(messages or state.scheduler)

    def _receive(self, wait: bool) -> list[tuple[bytes, list[bytes]]]:
        """Returns new messages. Polls before it sleeps, because waking a core is slow."""
        front = self.state.front
        until_ns = time.monotonic_ns() + self._busy_poll_ns if wait and self._heard else 0
        while time.monotonic_ns() < until_ns:
            if messages := front.receive(0):
                return messages
            os.sched_yield()  # Lets a client on the same core run.
        messages = front.receive(_WAIT_S if wait else 0)
        self._heard = bool(messages) or not wait
        return messages

    def _drain(self) -> None:
        """Answers everything that came before the end, for DRAIN_S at most."""
        self.state.draining = True
        log("draining", n_queued=len(self.state.scheduler))
        until_ns = time.monotonic_ns() + int(DRAIN_S * 1e9)
        while self._turn(wait=False) and time.monotonic_ns() < until_ns:
            pass

    def _take(self, identity: bytes, frames: list[bytes], arrival_ns: int) -> None:
        """Queues one message, or answers it with a reply or a typed error."""
        state = self.state
        if not state.bad_messages.allow(identity, arrival_ns):
            return
        sequence = 0
        try:
            if len(frames) != 1:
                raise WireError(Status.MALFORMED, f"message of {len(frames)} frames, expected one")
            header, payload = wire.decode(frames[0])
            sequence = header.sequence
            if header.kind in _REQUESTS:
                self._watch_order(state.sessions.get(identity, arrival_ns), sequence)
            if header.kind == Kind.ACT:
                obs = wire.floats(payload, (state.policy.manifest.obs_dim,), sequence)
                request = Request(
                    sequence, header.client_time_ns, header.budget_us, obs, arrival_ns
                )
                self._queue(state.sessions.get(identity, arrival_ns), request)
            elif header.kind == Kind.CONTROL:
                self.requests.answer(state.sessions.get(identity, arrival_ns), header, payload)
            else:
                name = Kind(header.kind).name
                raise WireError(Status.UNKNOWN_TYPE, f"{name} is what a server sends", sequence)
        except WireError as error:
            self._bad(identity, error, sequence or error.sequence)
        except Exception as error:  # A bug here must not stop the robots of the other sessions.
            self._failed(identity, error, sequence)

    def _watch_order(self, session: Session, sequence: int) -> None:
        """Logs where a session's numbers do not rise: two clients have one routing id."""
        falls = 0 < sequence <= session.last_sequence
        n_suppressed = self._shared.due(session.ordinal) if falls else None
        if n_suppressed is not None:
            log(
                "routing_id_shared",
                level="warning",
                session=session.ordinal,
                sequence=sequence,
                last_sequence=session.last_sequence,
                n_suppressed=n_suppressed,
                reason="two clients, or one started again, use one routing id: they share a "
                "session, and take each other's connection; give each its own",
            )
        session.last_sequence = sequence

    def _bad(self, identity: bytes, error: WireError, sequence: int) -> None:
        """Answers a message that breaks the rules. Ignores a peer that sends many."""
        state = self.state
        session = state.sessions.find(identity)
        if session is not None:
            session.n_errors += 1
        state.refuse(identity, error.status, str(error), sequence)
        if error.status in _HARMLESS:
            return
        known = session is not None
        if state.bad_messages.bad(identity, state.ticked_ns, known=known):
            log(
                "peer_blocked",
                level="warning",
                session=session.ordinal if session is not None else None,
                status=error.status.name,
                reason=str(error),
            )

    def _failed(self, identity: bytes, error: Exception, sequence: int) -> None:
        """Answers a request on which the server failed. Only the log says why."""
        message = "the server failed at this request; its log says why"
        self.state.refuse(identity, Status.INTERNAL, message, sequence)
        if (n_suppressed := self._failures.due(type(error))) is not None:
            log("request_failed", level="error", error=error, n_suppressed=n_suppressed)

    def _queue(self, session: Session, request: Request) -> None:
        """Queues an observation. Gives up what it replaces, or itself where the queue is full."""
        taken, replaced = self.state.scheduler.put(session, request)
        if not taken:
            self.state.give_up(session, request, Status.OVERLOADED)
        elif replaced is not None:
            self.state.give_up(session, replaced, Status.SUPERSEDED)

    def _compute(self) -> None:
        """Computes the next batch, and gives up observations that are late."""
        state = self.state
        if not state.scheduler:
            return
        start_ns = time.monotonic_ns()
        policy = state.policy
        batch, late = state.scheduler.take(start_ns)
        for session, request in late:
            session.n_late += 1
            state.give_up(session, request, Status.LATE)
        if not batch:
            return
        obs, noise = policy.inputs(len(batch))
        for row, (session, request) in enumerate(batch):
            obs[row] = request.obs
            session.noise.draw(noise[row])
        if policy.has_memory:
            self._recall(batch)
        try:
            actions = policy.act(len(batch))
        except Exception as error:  # The runtime failed. The other robots must be served on.
            for session, request in batch:
                self._failed(session.identity, error, request.sequence)
            return
        state.counters.batches[len(batch)] += 1
        end_ns = time.monotonic_ns()
        finite = wire.all_finite(actions)
        for row, ((session, request), action) in enumerate(zip(batch, actions, strict=True)):
            usable = finite or wire.all_finite(action)
            if usable and policy.has_memory:
                usable = self._advance(session, row, len(batch))
            if usable:
                self._reply(session, request, action, start_ns, end_ns)
            else:
                message = "the policy answered NaN or infinity"
                state.refuse(session.identity, Status.INTERNAL, message, request.sequence)

    def _recall(self, batch: list[Waiting]) -> None:
        """Fills in the states that the policy computes the batch from."""
        before, _ = self.state.policy.states(len(batch))
        for row, (session, _) in enumerate(batch):
            session.memory.recall(before[row])

    def _advance(self, session: Session, row: int, n: int) -> bool:
        """Keeps the state after a session's observation. Returns False where it is not finite.

        Args:
            session: The session.
            row: Its row in the batch.
            n: Rows of the batch.
        """
        _, after = self.state.policy.states(n)
        if not wire.all_finite(after[row]):
            return False
        session.memory.advance(after[row])
        return True

    def _reply(
        self, session: Session, request: Request, action: np.ndarray, start_ns: int, end_ns: int
    ) -> None:
        """Sends an action and counts its times."""
        state = self.state
        policy = state.policy
        arrival_ns = request.arrival_ns
        queue_us = (start_ns - arrival_ns) // 1000
        inference_us = (end_ns - start_ns) // 1000
        server_us = (end_ns - arrival_ns) // 1000
        header = Header(
            kind=Kind.ACT_REPLY,
            sequence=request.sequence,
            client_time_ns=request.client_time_ns,
            budget_us=session.memory.n_seen,
            queue_us=queue_us,
            inference_us=inference_us,
            server_us=server_us,
            valid_us=policy.valid_us,
            policy=policy.id,
        )
        state.send(session.identity, wire.encode(header, action.tobytes()))
        session.n_acts += 1
        session.recent.append((arrival_ns, server_us))
        state.counters.statuses["OK"] += 1
        state.counters.add(queue_us, inference_us, server_us)
