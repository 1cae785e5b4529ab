"""Measures a policy under load: up to 64 clients in a few processes, closed loop or fixed rate.

At a fixed rate a request's latency counts from its scheduled time, sent or not. A stall delays all
requests that fall into it, and all of them are in the numbers (no coordinated omission).
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from policy_server.bench.host import n_cores
from policy_server.bench.load.generator import COLUMNS, Timing

MAX_CLIENTS = 64
_START_S = 0.05  # time from telling the processes when to start, to that start
_END_S = 60.0  # how long a process may take to end
_PART = ("obs", "reply_bytes", "endpoint", "bundle", "provider", "keys")  # what a process is told


class LoadError(RuntimeError):
    """A process of the load generator failed. The message is what it wrote to stderr."""


@dataclass(frozen=True)
class LoadPlan:
    """What to measure.

    Attributes:
        obs: (obs_dim,) observation of every request.
        reply_bytes: Size of an action chunk [bytes]. An answer of another size is a BAD_REPLY.
        endpoint: Address of a running server. None: `bundle` is given.
        bundle: Folder of a bundle to run in the clients' own processes instead.
        provider: Provider that computes the bundle.
        keys: File or folder of the clients' keys, for a server with keys. The processes are told
            the path, never the secret.
        n_clients: Number of clients, 1 to 64. Each has its own session.
        rate_hz: Requests of each client [Hz]. None: closed loop, each asks again when answered.
        n_requests: Number of requests to measure, all clients together.
        duration_s: Time to measure instead of `n_requests` [s].
        warmup_s: Load before the measurement [s].
        deadline_s: Deadline of a request, from its scheduled time on [s]. The server is told.
        timeout_s: Age at which an answer counts as lost [s].
    """

    obs: tuple[float, ...]
    reply_bytes: int
    endpoint: str | None = None
    bundle: str | None = None
    provider: str = "auto"
    keys: str | None = None
    n_clients: int = 1
    rate_hz: float | None = None
    n_requests: int = 20_000
    duration_s: float | None = None
    warmup_s: float = 0.5
    deadline_s: float | None = None
    timeout_s: float = 1.0

    def __post_init__(self):
        """Raises ValueError for the first value out of its range."""
        if (self.endpoint is None) == (self.bundle is None):
            raise ValueError("give exactly one of a server's endpoint and a bundle")
        if not 1 <= self.n_clients <= MAX_CLIENTS:
            raise ValueError(f"{self.n_clients} clients: expected 1 to {MAX_CLIENTS}")
        if self.duration_s is None and self.n_requests < 1:
            raise ValueError(f"{self.n_requests} requests to measure: expected at least 1")
        for name in ("rate_hz", "duration_s", "deadline_s", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e6:
                raise ValueError(f"{name} {value}: expected more than 0 and less than 1e6")
        if not 0 <= self.warmup_s < 1e6:
            raise ValueError(f"warmup_s {self.warmup_s}: expected 0 or more")


@dataclass(frozen=True)
class LoadSamples:
    """What was measured, without the warm-up.

    Attributes:
        plan: What was asked for.
        columns: (n,) for each of `generator.COLUMNS`, in the order of scheduled_ns. received_ns is
            -1 where no answer came. status is that of the wire, or -1 lost, -2 unsent, -3 bad
            reply. Times are those of the monotonic clock.
        n_duplicate: Number of answers to answered requests, warm-up included.
        n_stray: Number of answers to requests never made, warm-up included.
        cpu_share: (n_processes,) CPU time of each generator process [cores]. Near 1 the generator
            is the bottleneck. It includes a bundle that is computed in the process.
        interrupted: Whether Ctrl-C ended the measurement.
    """

    plan: LoadPlan
    columns: dict[str, np.ndarray]
    n_duplicate: int
    n_stray: int
    cpu_share: np.ndarray
    interrupted: bool


def run(plan: LoadPlan, n_processes: int | None = None) -> LoadSamples:
    """Measures. Ctrl-C ends it early, with the samples so far.

    Args:
        plan: What to measure.
        n_processes: Number of processes that play the clients. None: one a core, at most one a
            client.

    Raises:
        ValueError: There are more processes than clients.
        LoadError: A process failed, for instance because no server answers.
    """
    if n_processes is None:
        n_processes = default_processes(plan.n_clients)
    if not 1 <= n_processes <= plan.n_clients:
        raise ValueError(
            f"{n_processes} processes for {plan.n_clients} clients: expected 1 to {plan.n_clients}"
        )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = [_Worker(part, Path(folder), stack) for part in _parts(plan, n_processes)]
        for worker in workers:
            worker.expect("ready")
        start_ns = time.monotonic_ns() + int(_START_S * 1e9)
        for worker in workers:
            worker.tell(str(start_ns))
        interrupted = False
        try:
            for worker in workers:
                worker.expect("done")
        except KeyboardInterrupt:
            interrupted = True
        for worker in workers:
            worker.stop()
        return _merged(plan, [worker.samples() for worker in workers], interrupted)


def default_processes(n_clients: int) -> int:
    """Returns how many processes play this many clients: one a core, at most one a client."""
    return min(n_clients, n_cores())


def _parts(plan: LoadPlan, n_processes: int) -> list[dict[str, Any]]:
    """Returns each process's part as JSON values: neighbouring clients and their requests."""
    common = {name: getattr(plan, name) for name in _PART}
    common["connect_timeout_s"] = max(10 * plan.timeout_s, 1.0)
    bounds = [plan.n_clients * i // n_processes for i in range(n_processes + 1)]
    return [
        {**common, "first_client": first, "timing": asdict(_timing(plan, first, end))}
        for first, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def _timing(plan: LoadPlan, first: int, end: int) -> Timing:
    """Returns when the clients [first, end) send, and their share of the requests."""
    period_ns = round(1e9 / plan.rate_hz) if plan.rate_hz else 0
    share = plan.n_requests * end // plan.n_clients - plan.n_requests * first // plan.n_clients
    return Timing(
        phases_ns=[period_ns * client // plan.n_clients for client in range(first, end)],
        period_ns=period_ns,
        warmup_ns=round(plan.warmup_s * 1e9),
        n_requests=0 if plan.duration_s else max(share, 1),
        duration_ns=round((plan.duration_s or 0) * 1e9),
        timeout_ns=round(plan.timeout_s * 1e9),
        deadline_ns=round((plan.deadline_s or 0) * 1e9),
    )


def _merged(plan: LoadPlan, parts: list[dict[str, np.ndarray]], interrupted: bool) -> LoadSamples:
    """Returns the samples of all processes, in the order of their schedule."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
    order = np.argsort(columns["scheduled_ns"], kind="stable")
    return LoadSamples(
        plan=plan,
        columns={name: column[order] for name, column in columns.items()},
        n_duplicate=int(sum(part["counts"][0] for part in parts)),
        n_stray=int(sum(part["counts"][1] for part in parts)),
        cpu_share=np.array([float(part["cpu_share"]) for part in parts]),
        interrupted=interrupted,
    )


class _Worker:
    """One process of the generator. It is killed at the end of `stack`."""

    def __init__(self, part: dict[str, Any], folder: Path, stack: ExitStack):
        name = f"clients_{part['first_client']}"
        self._out = folder / f"{name}.npz"
        self._log = folder / f"{name}.log"
        log = stack.enter_context(self._log.open("w"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "policy_server.bench.load.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then asks for the samples
        )
        stack.enter_context(self._process)
        stack.callback(self._process.kill)
        self.tell(json.dumps({**part, "out": str(self._out)}))

    def tell(self, line: str) -> None:
        """Sends the process one line. Raises LoadError where it has ended."""
        stdin = _pipe(self._process.stdin)
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def expect(self, word: str) -> None:
        """Waits until the process writes `word`. Raises LoadError where it ends instead."""
        if _pipe(self._process.stdout).readline() != f"{word}\n":
            raise self._failure()

    def stop(self) -> None:
        """Makes the process end its load and write its samples."""
        _pipe(self._process.stdin).close()

    def samples(self) -> dict[str, np.ndarray]:
        """Returns the samples once the process has ended. Raises LoadError where it failed."""
        if self._process.wait():
            raise self._failure()
        with np.load(self._out, allow_pickle=False) as file:
            return dict(file)

    def _failure(self) -> LoadError:
        status = self._process.wait(_END_S)
        said = self._log.read_text().strip()[-1000:]
        silent = f"a process of the load generator ended with status {status} and wrote nothing"
        return LoadError(said or silent)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
