"""Servers and clients as processes, and the environment of openpi's client."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edp_robot.demo.leash import leashed
from peer_patterns import OURS

OBS_FILE = "obs.npy"  # (n, obs_dim)
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "openpi-requirements.txt"
START_S = 60.0  # a server may take so long to start [s]


def openpi_python() -> Path:
    """Returns the interpreter of openpi's environment, built or not.

    The environment is $VENV_PEERS, or .venv-peers in the repository.
    """
    return Path(os.environ.get("VENV_PEERS", ROOT / ".venv-peers")) / "bin" / "python"


def openpi_built() -> bool:
    """Returns whether openpi's client can be started."""
    python = openpi_python()
    command = [str(python), "-c", "import openpi_client.websocket_client_policy"]
    return python.exists() and subprocess.run(command, capture_output=True).returncode == 0


def build_openpi() -> None:
    """Builds openpi's environment, which git ignores.

    Raises:
        RuntimeError: The environment cannot be built.
    """
    folder = openpi_python().parents[1]
    commands = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(openpi_python()), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"cannot build openpi's environment: {' '.join(command)}\n{done.stderr[-1500:]}\n"
                "give one that has openpi-client in VENV_PEERS, or leave openpi out with --only"
            )
    (folder / ".gitignore").write_text("*\n")


class Process:
    """A child that answers in lines, and that ends when this process ends.

    Attributes:
        log: The file with the child's stderr.

    Args:
        name: The child's name in messages.
        command: Its words.
        log: File for its stderr.
        cores: Cores that it may run on; empty means all.
    """

    def __init__(
        self, name: str, command: list[str], log: Path, cores: frozenset[int] = frozenset()
    ):
        self.log = log
        self._name = name
        path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                leashed(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
                cwd=ROOT,
            )
        if cores:  # set before the child has threads, which inherit it
            os.sched_setaffinity(self._process.pid, cores)
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def line(self, timeout_s: float = START_S) -> str:
        """Returns the child's next line.

        Raises:
            RuntimeError: No line comes. The message has the end of the log.
        """
        try:
            if line := self._lines.get(timeout=timeout_s):
                return line
        except queue.Empty:
            pass
        end = self.log.read_text()[-2000:]
        raise RuntimeError(f"{self._name} did not answer; its log ends:\n{end}")

    def endpoint(self) -> str:
        """Returns the endpoint in the line that a server prints when it is ready.

        Raises:
            RuntimeError: No such line comes within START_S.
        """
        until = time.monotonic() + START_S
        line = ""
        while not line.startswith("serving "):
            line = self.line(max(until - time.monotonic(), 0))
        return line.split(" on ", 1)[1].split(",")[0].strip()

    def tell(self, **request: Any) -> None:
        """Sends one request."""
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # `line` says why
            pipe.write(json.dumps(request) + "\n")
            pipe.flush()

    def ask(self, timeout_s: float = 120.0, **request: Any) -> Any:
        """Returns the answer to one request.

        Raises:
            RuntimeError: No answer comes.
        """
        self.tell(**request)
        return json.loads(self.line(timeout_s))

    def end(self) -> None:
        """Ends the child, by force if it does not end within 10 s."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                assert pipe is not None
                pipe.close()

    def _read(self) -> None:
        """Moves lines from the pipe to the queue; an empty line marks the end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


def edp_serve(bundle: Path, bind: str, *options: str) -> list[str]:
    """Returns the words of `edp serve` on the CPU."""
    words = ["serve", str(bundle), "--bind", bind, "--provider", "cpu", *options]
    return [sys.executable, "-m", "edp_robot.cli", *words]


@contextlib.contextmanager
def server(
    pattern: str, bundle: Path, folder: Path, cores: frozenset[int] = frozenset()
) -> Iterator[str]:
    """Yields the endpoint of the pattern's server, which runs inside the block.

    Args:
        pattern: One of PATTERNS.
        bundle: The bundle to serve.
        folder: Where socket and log go.
        cores: Cores of the server; empty means all.
    """
    if pattern in OURS:
        bind = "tcp://127.0.0.1:*" if pattern == "edp-tcp" else f"ipc://{folder / pattern}.sock"
        polling = ("--busy-poll-s", "0.001") if pattern == "edp-ipc-poll" else ()
        command = edp_serve(bundle, bind, *polling)
    else:
        command = [sys.executable, "-m", "peer_patterns.serve", pattern, str(bundle)]
    log = folder / f"{pattern}-server.log"
    process = Process(f"{pattern}'s server", command, log, cores)
    try:
        yield process.endpoint()
    finally:
        process.end()


@contextlib.contextmanager
def clients(
    pattern: str,
    endpoint: str,
    folder: Path,
    n_processes: int = 1,
    n_clients: int = 1,
    cores: frozenset[int] = frozenset(),
) -> Iterator[list[Process]]:
    """Yields processes whose clients are connected and ask with the observations of OBS_FILE.

    Args:
        pattern: One of PATTERNS.
        endpoint: The server's endpoint.
        folder: Has OBS_FILE; logs go there.
        n_processes: How many processes.
        n_clients: Clients in each process.
        cores: Cores of the processes; empty means all.
    """
    python = str(openpi_python()) if pattern == "openpi" else sys.executable
    words = [pattern, endpoint, str(folder / OBS_FILE), str(n_clients)]
    with contextlib.ExitStack() as stack:
        workers = []
        for i in range(n_processes):
            workers.append(
                Process(
                    f"{pattern}'s client {i}",
                    [python, "-m", "peer_patterns.worker", *words],
                    folder / f"{pattern}-client{i}.log",
                    cores,
                )
            )
            stack.callback(workers[-1].end)
        for worker in workers:
            worker.line()
        yield workers
