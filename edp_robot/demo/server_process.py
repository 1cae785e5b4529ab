"""A policy server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edp_robot.demo.leash import leashed

READY = " on "  # the server's ready line: "serving NAME (hash) on ENDPOINT, provider cpu"


@contextmanager
def run_server(bundle: Path, log: Path, timeout_s: float = 60.0) -> Iterator[str]:
    """Yields the endpoint of `edp serve`, which runs on a free loopback port inside the block.

    The server also ends when this process is killed.

    Args:
        bundle: Folder of the bundle to serve.
        log: File for the server's output.
        timeout_s: How long to wait until it is ready [s].

    Raises:
        RuntimeError: The server is not ready in time. The message has the end of its log.
    """
    words = ["serve", str(bundle), "--bind", "tcp://127.0.0.1:*", "--provider", "cpu"]
    command = leashed([sys.executable, "-m", "edp_robot.cli", *words])
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield endpoint_of(server, log, timeout_s)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def endpoint_of(server: subprocess.Popen, log: Path, timeout_s: float = 60.0) -> str:
    """Returns the endpoint from the ready line that a server writes to its log.

    Args:
        server: The process of `edp serve`.
        log: The file that it writes to.
        timeout_s: How long to wait for the line [s].

    Raises:
        RuntimeError: The line does not come. The message has the end of the log.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and server.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("serving ") and READY in line:
                return line.split(READY, 1)[1].split(",")[0].strip()
        time.sleep(0.05)
    raise RuntimeError(f"the server did not get ready; its log ends:\n{log.read_text()[-2000:]}")
