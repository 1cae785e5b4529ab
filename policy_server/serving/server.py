"""A server that answers robots with a bundle's policy over ZeroMQ.

One thread takes what has come, checks it, and computes what waited longest in one batch. Each client (ZeroMQ
routing id) has a session with noise of its own and room for one waiting observation; see `policy_server.serving.sessions`,
`policy_server.serving.scheduler` and docs/wire.md.
"""

import contextlib
import gc
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np

from policy_server.contract import wire
from policy_server.contract.choices import Precision, Provider
from policy_server.contract.wire import Header, Kind, Status, WireError
from policy_server.observe.counters import Counters
from policy_server.observe.logs import Occasional, log
from policy_server.observe.monitor import Monitor
from policy_server.serving.control_requests import Operations
from policy_server.serving.noise import check_seed
from policy_server.serving.scheduler import Scheduler
from policy_server.serving.served_policy import ServedPolicy
from policy_server.serving.sessions import Request, Session, Sessions
from policy_server.transport import curve_server as sockets
from policy_server.transport.address import check_bind
from policy_server.transport.keys import BadMessageLimit, ServerKeys

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5599"
DRAIN_S = 1.0
LINGER_S = 0.2
_WAIT_S = 0.1  # then it looks whether it shall end
_LOG_PERIOD_S = 10.0
_HARMLESS = {
    Status.UNSUPPORTED,
    Status.REFUSED,
    Status.NOT_FINITE,
}  # no sign of a peer that means ill
_MESSAGES = {
    Status.LATE: "waited longer than its budget and was not computed; lower the load or allow more time",
    Status.SUPERSEDED: "a newer observation or a reset of this session came while this one waited; not computed",
    Status.OVERLOADED: "too many sessions wait; not computed; ask again later, or less often",
}


class PolicyServer:
    """Serves one bundle on one endpoint.

    Attributes:
        endpoint: Where it listens, the real port included.
        policy: In service; a reload replaces it.
        sessions, counters: Of the clients, and what happened.
        draining: Whether it answers what waits and then ends.

    Args:
        bundle_path: Folder of the bundle; it must pass its self-test on this machine.
        endpoint: tcp://127.0.0.1:PORT (port * picks a free one) or ipc://PATH.
        provider: auto, cpu, cuda or tensorrt.
        seed: Seed of the sessions' noise.
        precision: fp32, or fp16 or int8 where the bundle has it.
        keys: Of the server and its clients; required off loopback.
        monitor: Pages that tell Prometheus of this server.
        busy_poll_s: How long after a message it looks for more without a pause before it sleeps [s].
        backend: Inference backend: a registered name, or `package.module:attribute`.

    Raises:
        BundleError: The bundle is refused.
        BackendError: The provider is missing, or the golden vectors come out differently.
        ServerError: The endpoint is in use or not allowed.
        ValueError: The seed is not a whole number in [0, 2^63), or busy_poll_s not in [0, 0.1].
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
        if not 0 <= busy_poll_s <= _WAIT_S:
            raise ValueError(f"busy_poll_s {busy_poll_s}: expected 0 to {_WAIT_S} s")
        self._busy_poll_ns, self._heard = int(busy_poll_s * 1e9), False
        load = partial(ServedPolicy, bundle_path, provider, precision, backend)
        self.policy = load()
        self.provider = self.policy.provider
        self.sessions = Sessions(check_seed(seed))
        self.counters = Counters()
        self.scheduler = Scheduler(self.policy.batch)
        self.started_ns = self.ticked_ns = time.monotonic_ns()
        self.draining = False
        self.operations = Operations(self, seed, load)
        self.bad_messages = BadMessageLimit()
        self._failures = Occasional(_LOG_PERIOD_S)
        self._monitor = monitor
        self._stop = threading.Event()
        self.front = sockets.listen(endpoint, keys)
        self.endpoint = self.front.endpoint

    def run(self) -> None:
        """Serves until SIGTERM, SIGINT or `stop`, answers what waits, and closes. Prints one line when ready.

        SIGHUP loads the bundle again.
        """
        if self._monitor is not None:
            self._monitor.attach(self)
        gc.collect()
        gc.freeze()  # what is here stays: later collections need not look at it
        try:
            with self._signals():
                self._say_ready()
                while not self._stop.is_set():
                    self._turn(wait=not self.scheduler)
                self._drain()
        finally:
            self.close()

    def _say_ready(self) -> None:
        name, bundle_hash = self.policy.manifest.name, self.policy.bundle.hash
        log(
            "serving",
            policy=name,
            bundle_hash=bundle_hash,
            endpoint=self.endpoint,
            provider=self.provider,
        )
        print(
            f"serving {name} ({bundle_hash[:12]}) on {self.endpoint}, provider {self.provider}",
            flush=True,
        )

    def stop(self) -> None:
        """Makes `run` end; may be called from another thread."""
        self._stop.set()

    def close(self) -> None:
        """Closes the socket; replies have a moment to leave. Ends when nothing runs any more."""
        self.front.close(LINGER_S)
        self.operations.close()

    def use(self, policy: ServedPolicy) -> None:
        """Answers with another policy from the next batch on."""
        self.policy, self.provider = policy, policy.provider
        self.scheduler.batch = policy.batch

    def send(self, identity: bytes, frame: bytes) -> None:
        """Sends without waiting: a client that is gone, or does not read, loses its reply."""
        if not self.front.send(identity, frame):
            self.counters.statuses["undeliverable"] += 1

    def refuse(self, identity: bytes, status: Status, message: str, sequence: int) -> None:
        """Sends a typed error."""
        self.counters.statuses[status.name] += 1
        self.send(
            identity,
            wire.encode(
                Header(Kind.ERROR, status, sequence), message[:1000].encode(errors="replace")
            ),
        )

    @contextlib.contextmanager
    def _signals(self):
        """Ends on SIGTERM and SIGINT and reloads on SIGHUP, inside the block and in the main thread."""
        handlers = {
            number: lambda *_: self._stop.set() for number in (signal.SIGTERM, signal.SIGINT)
        }
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = lambda *_: self.operations.ask_reload()
        if threading.current_thread() is not threading.main_thread():
            handlers = {}
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _turn(self, wait: bool) -> bool:
        """Takes in what has come and computes one batch; returns whether there was something to do."""
        messages = self._receive(wait)
        self.ticked_ns = arrival_ns = time.monotonic_ns()
        for identity, frames in messages:
            self._take(identity, frames, arrival_ns)
        self._compute()
        self.operations.poll()
        if self._monitor is not None:
            self._monitor.poll()
        return bool(messages or self.scheduler)

    def _receive(self, wait: bool) -> list[tuple[bytes, list[bytes]]]:
        """Returns messages; looks for more without a pause before it sleeps: a core that sleeps is slow to wake."""
        until_ns = time.monotonic_ns() + self._busy_poll_ns if wait and self._heard else 0
        while time.monotonic_ns() < until_ns:
            if messages := self.front.receive(0):
                return messages
            os.sched_yield()  # a client on the same core must not wait for us to give up
        messages = self.front.receive(_WAIT_S if wait else 0)
        self._heard = bool(messages) or not wait
        return messages

    def _drain(self) -> None:
        """Answers everything that has come before the end, for DRAIN_S at most."""
        self.draining = True
        log("draining", n_queued=len(self.scheduler))
        until_ns = time.monotonic_ns() + int(DRAIN_S * 1e9)
        while self._turn(wait=False) and time.monotonic_ns() < until_ns:
            pass

    def _take(self, identity: bytes, frames: list[bytes], arrival_ns: int) -> None:
        """Queues or answers one message; whatever it holds, the answer is a reply or a typed error."""
        if not self.bad_messages.allow(identity, arrival_ns):
            return
        sequence = 0
        try:
            if len(frames) != 1:
                raise WireError(Status.MALFORMED, f"message of {len(frames)} frames, expected one")
            header, payload = wire.decode(frames[0])
            sequence = header.sequence
            if header.kind == Kind.ACT:
                obs = wire.floats(payload, (self.policy.manifest.obs_dim,), sequence)
                request = Request(
                    sequence, header.client_time_ns, header.budget_us, obs, arrival_ns
                )
                self._queue(self.sessions.get(identity, arrival_ns), request)
            elif header.kind == Kind.CONTROL:
                self.operations.answer(self.sessions.get(identity, arrival_ns), header, payload)
            else:
                raise WireError(
                    Status.UNKNOWN_TYPE,
                    f"{Kind(header.kind).name} is what a server sends",
                    sequence,
                )
        except WireError as error:
            self._bad(identity, error, sequence or error.sequence)
        except Exception as error:  # a bug here must not stop the robots of the other sessions
            self._failed(identity, error, sequence)

    def _bad(self, identity: bytes, error: WireError, sequence: int) -> None:
        """Answers a message that breaks the rules; a peer that sends many is not listened to for a while."""
        session = self.sessions.find(identity)
        if session is not None:
            session.n_errors += 1
        self.refuse(identity, error.status, str(error), sequence)
        if error.status not in _HARMLESS and self.bad_messages.bad(
            identity, self.ticked_ns, known=session is not None
        ):
            ordinal = None if session is None else session.ordinal
            log(
                "peer_blocked",
                level="warning",
                session=ordinal,
                status=error.status.name,
                reason=str(error),
            )

    def _failed(self, identity: bytes, error: Exception, sequence: int) -> None:
        """Answers a request at which we failed, without saying how; the log tells."""
        self.refuse(
            identity,
            Status.INTERNAL,
            "the server failed at this request; its log says why",
            sequence,
        )
        if (n_suppressed := self._failures.due(type(error))) is not None:
            log("request_failed", level="error", error=error, n_suppressed=n_suppressed)

    def _queue(self, session: Session, request: Request) -> None:
        """Lets an observation wait; what it replaces, or the observation itself where too many wait, is answered."""
        taken, replaced = self.scheduler.put(session, request)
        if not taken:
            self._give_up(session, request, Status.OVERLOADED)
        elif replaced is not None:
            self._give_up(session, replaced, Status.SUPERSEDED)

    def _give_up(self, session: Session, request: Request, status: Status) -> None:
        self.refuse(session.identity, status, _MESSAGES[status], request.sequence)

    def superseded(self, session: Session) -> None:
        """Drops the session's waiting observation, if there is one, and says so."""
        dropped = self.scheduler.drop(session)
        if dropped is not None:
            self._give_up(session, dropped, Status.SUPERSEDED)

    def _compute(self) -> None:
        """Answers the next batch, and what is too late for one."""
        if not self.scheduler:
            return
        start_ns, policy = time.monotonic_ns(), self.policy
        batch, late = self.scheduler.take(start_ns)
        for session, request in late:
            session.n_late += 1
            self._give_up(session, request, Status.LATE)
        if not batch:
            return
        obs, noise = policy.inputs(len(batch))
        for row, (session, request) in enumerate(batch):
            obs[row] = request.obs
            session.noise.draw(noise[row])
        try:
            actions = policy.act(len(batch))
        except Exception as error:  # the runtime failed, or a bug: the other robots must go on
            for session, request in batch:
                self._failed(session.identity, error, request.sequence)
            return
        self.counters.batches[len(batch)] += 1
        end_ns, finite = time.monotonic_ns(), wire.all_finite(actions)
        for (session, request), action in zip(batch, actions, strict=True):
            if finite or wire.all_finite(action):
                self._reply(session, request, action, start_ns, end_ns)
            else:
                self.refuse(
                    session.identity,
                    Status.INTERNAL,
                    "the policy answered NaN or infinity",
                    request.sequence,
                )

    def _reply(
        self, session: Session, request: Request, action: np.ndarray, start_ns: int, end_ns: int
    ) -> None:
        """Sends an action, and remembers how long it took."""
        sequence, client_time_ns, _, _, arrival_ns = request
        times = (
            (start_ns - arrival_ns) // 1000,
            (end_ns - start_ns) // 1000,
            (end_ns - arrival_ns) // 1000,
        )
        header = Header(
            Kind.ACT_REPLY,
            0,
            sequence,
            client_time_ns,
            0,
            0,
            *times,
            self.policy.valid_us,
            self.policy.id,
        )
        self.send(session.identity, wire.encode(header, action.tobytes()))
        session.n_acts += 1
        session.recent.append((arrival_ns, times[2]))
        self.counters.statuses["OK"] += 1
        self.counters.add(*times)
