"""Load on a policy: up to 64 clients in a few processes, closed loop or at a fixed rate.

At a fixed rate a request's latency counts from the time it was scheduled for, sent or not: a stall delays all
requests that fall into it, and all of them are in the numbers (no coordinated omission).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from policy_server.bench.load.generator import COLUMNS, Timing

MAX_CLIENTS = 64
_START_S = 0.05  # from telling all processes when to start, to that time
_READY_S = 60.0


class LoadError(RuntimeError):
    """A process of the load generator failed; the message says what it said."""


@dataclass(frozen=True)
class LoadPlan:
    """One measurement.

    Attributes:
        obs: (obs_dim,) what every request sends.
        reply_bytes: Size of an action chunk [bytes]; an answer of another size is a BAD_REPLY.
        endpoint: Of a running server; None with `bundle`.
        bundle: Folder of a bundle to run in the clients' own processes instead.
        provider: Of that bundle.
        keys: File or folder of the clients' keys, for a server with keys; the secret itself is in no message.
        n_clients: 1 to 64, each with a session of its own.
        rate_hz: Of each client; None for a closed loop: each asks again when it is answered.
        n_requests: Requests to measure, of all clients together.
        duration_s: How long to measure instead [s].
        warmup_s: Load before the measurement [s].
        deadline_s: Sent along as budget, counted from the scheduled time [s].
        timeout_s: After this an answer counts as lost [s].
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
        """Raises ValueError for what cannot be measured."""
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
    """What was measured, warm-up excluded.

    Attributes:
        plan: What was asked for.
        columns: (n,) for each of load_generator.COLUMNS: scheduled_ns, sent_ns, received_ns (-1: never; all of the
            monotonic clock), client, status (of the wire; -1 lost, -2 unsent, -3 bad reply), queue_us, inference_us,
            server_us. In the order of scheduled_ns.
        n_duplicate: Answers to requests answered already, warm-up included.
        n_stray: Answers to requests never made, warm-up included.
        cpu_share: (n_processes,) CPU time of each generator process, in cores; near 1 it is the bottleneck itself
            (a bundle computed in this process included).
        interrupted: Stopped by Ctrl-C.
    """

    plan: LoadPlan
    columns: dict[str, np.ndarray]
    n_duplicate: int
    n_stray: int
    cpu_share: np.ndarray
    interrupted: bool


def run(plan: LoadPlan, n_processes: int | None = None) -> LoadSamples:
    """Measures; Ctrl-C ends it early, with what there is until then.

    Args:
        plan: What to measure.
        n_processes: Over which the clients are spread; None for one a core, at most one a client.

    Raises:
        LoadError: A process failed, for instance since no server answers.
    """
    n_processes = default_processes(plan.n_clients) if n_processes is None else n_processes
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
    n_cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(n_clients, n_cores)


def _parts(plan: LoadPlan, n_processes: int) -> list[dict[str, Any]]:
    """Returns each process's part: neighbouring clients, and its share of the requests, as JSON values."""
    period_ns = round(1e9 / plan.rate_hz) if plan.rate_hz else 0
    names = ("obs", "reply_bytes", "endpoint", "bundle", "provider", "keys")
    common = {name: getattr(plan, name) for name in names}
    bounds = [plan.n_clients * i // n_processes for i in range(n_processes + 1)]
    parts = []
    for first, end in zip(bounds[:-1], bounds[1:], strict=True):
        shares = [plan.n_requests * client // plan.n_clients for client in (first, end)]
        timing = Timing(
            phases_ns=[period_ns * client // plan.n_clients for client in range(first, end)],
            period_ns=period_ns,
            warmup_ns=round(plan.warmup_s * 1e9),
            n_requests=0 if plan.duration_s else max(shares[1] - shares[0], 1),
            duration_ns=round((plan.duration_s or 0) * 1e9),
            timeout_ns=round(plan.timeout_s * 1e9),
            deadline_ns=round((plan.deadline_s or 0) * 1e9),
        )
        connect = {"connect_timeout_s": max(10 * plan.timeout_s, 1.0)}
        parts.append({**common, **connect, "first_client": first, "timing": asdict(timing)})
    return parts


def _merged(plan: LoadPlan, parts: list[dict[str, np.ndarray]], interrupted: bool) -> LoadSamples:
    """Returns the samples of all processes, in the order of their schedule."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
    order = np.argsort(columns["scheduled_ns"], kind="stable")
    n_duplicate, n_stray = (int(sum(part["counts"][i] for part in parts)) for i in (0, 1))
    cpu_share = np.array([float(part["cpu_share"]) for part in parts])
    return LoadSamples(
        plan,
        {k: v[order] for k, v in columns.items()},
        n_duplicate,
        n_stray,
        cpu_share,
        interrupted,
    )


class _Worker:
    """One process of the generator; it ends with `stack`, whatever happens."""

    def __init__(self, part: dict[str, Any], folder: Path, stack: ExitStack):
        name = f"clients_{part['first_client']}"
        self._out, self._log = folder / f"{name}.npz", folder / f"{name}.log"
        log = stack.enter_context(self._log.open("w"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "policy_server.bench.load.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which then asks for the samples
        )
        stack.enter_context(self._process)
        stack.callback(self._process.kill)
        self.tell(json.dumps({**part, "out": str(self._out)}))

    def tell(self, line: str) -> None:
        """Sends it one line."""
        stdin = _pipe(self._process.stdin)
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def expect(self, word: str) -> None:
        """Waits for it to say `word`. Raises LoadError where it ends instead."""
        if _pipe(self._process.stdout).readline() != f"{word}\n":
            raise self._failure()

    def stop(self) -> None:
        """Makes it end its load and write its samples."""
        _pipe(self._process.stdin).close()

    def samples(self) -> dict[str, np.ndarray]:
        """Returns its samples once it has ended. Raises LoadError where it failed."""
        if self._process.wait():
            raise self._failure()
        with np.load(self._out, allow_pickle=False) as file:
            return dict(file)

    def _failure(self) -> LoadError:
        status = self._process.wait(_READY_S)
        said = self._log.read_text().strip()[-1000:]
        return LoadError(
            said or f"a process of the load generator ended with status {status} and said nothing"
        )


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
