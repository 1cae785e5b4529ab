"""Servers and clients as processes of their own, and the environment of openpi's client."""

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


def openpi_python() -> Path:
    """Returns the interpreter of openpi's environment, built or not: $VENV_PEERS, or .venv-peers in the repository."""
    return Path(os.environ.get("VENV_PEERS", ROOT / ".venv-peers")) / "bin" / "python"


def openpi_built() -> bool:
    """Returns whether openpi's client can be started."""
    python = openpi_python()
    command = [str(python), "-c", "import openpi_client.websocket_client_policy"]
    return python.exists() and subprocess.run(command, capture_output=True).returncode == 0


def build_openpi() -> None:
    """Builds openpi's environment, which ignores itself in git. Raises RuntimeError where that fails."""
    folder = openpi_python().parents[1]
    commands = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(openpi_python()), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"openpi's environment could not be built: {' '.join(command)}\n{done.stderr[-1500:]}\n"
                "give one that has openpi-client in VENV_PEERS, or leave openpi out with --only"
            )
    (folder / ".gitignore").write_text("*\n")


class Process:
    """A child that answers in lines, and dies with us.

    Args:
        name: For messages.
        command: Its words.
        log: Where its errors go.
        cores: That it may run on; empty for all.
    """

    def __init__(
        self, name: str, command: list[str], log: Path, cores: frozenset[int] = frozenset()
    ):
        self._name, self._log = name, log
        path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                leashed(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                cwd=ROOT,
            )
        if cores:
            os.sched_setaffinity(
                self._process.pid, cores
            )  # before it has threads: they inherit this
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, timeout_s: float = 60.0) -> str:
        """Returns its next line. Raises RuntimeError where none comes."""
        try:
            if line := self._lines.get(timeout=timeout_s):
                return line
        except queue.Empty:
            pass
        raise RuntimeError(
            f"{self._name} did not answer; its log ends:\n{self._log.read_text()[-2000:]}"
        )

    def _read(self) -> None:
        """Moves lines from the pipe to the queue; an empty one says that there will be no more."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, **request: Any) -> None:
        """Sends one request."""
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # `line` tells why
            pipe.write(json.dumps(request) + "\n")
            pipe.flush()

    def ask(self, timeout_s: float = 120.0, **request: Any) -> Any:
        """Returns the answer to one request. Raises RuntimeError where none comes."""
        self.tell(**request)
        return json.loads(self.line(timeout_s))

    def end(self) -> None:
        """Ends it, if need be by force."""
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


@contextlib.contextmanager
def server(
    pattern: str, bundle: Path, folder: Path, cores: frozenset[int] = frozenset()
) -> Iterator[str]:
    """Yields the endpoint of the pattern's server, which runs inside the block."""
    if pattern in OURS:
        bind = "tcp://127.0.0.1:*" if pattern == "edp-tcp" else f"ipc://{folder / pattern}.sock"
        command = ["-m", "edp_robot.cli", "serve", str(bundle), "--bind", bind, "--provider", "cpu"]
        command += ["--busy-poll-s", "0.001"] if pattern == "edp-ipc-poll" else []
    else:
        command = ["-m", "peer_patterns.serve", pattern, str(bundle)]
    process = Process(
        f"{pattern}'s server", [sys.executable, *command], folder / f"{pattern}-server.log", cores
    )
    try:
        until = time.monotonic() + 60
        while not (line := process.line(max(until - time.monotonic(), 0))).startswith("serving "):
            pass
        yield line.split(" on ", 1)[1].split(",")[0].strip()
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
    """Yields processes with `n_clients` connected clients each, which ask for OBS_FILE of `folder`."""
    python = str(openpi_python()) if pattern == "openpi" else sys.executable
    command = [
        python,
        "-m",
        "peer_patterns.worker",
        pattern,
        endpoint,
        str(folder / OBS_FILE),
        str(n_clients),
    ]
    with contextlib.ExitStack() as stack:
        workers = []
        for i in range(n_processes):
            log = folder / f"{pattern}-client{i}.log"
            workers.append(Process(f"{pattern}'s client {i}", command, log, cores))
            stack.callback(workers[-1].end)
        for worker in workers:
            worker.line()
        yield workers
