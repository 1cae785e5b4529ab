"""A policy server in a process of its own, for as long as a block runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edp_robot.demo.leash import leashed

READY = " on "  # the server's one line: "serving NAME (hash) on ENDPOINT, provider cpu"


@contextmanager
def run_server(bundle: Path, log: Path, timeout_s: float = 60.0) -> Iterator[str]:
    """Yields the endpoint of `edp serve` on a free loopback port; ends the server afterwards, and if we are killed.

    Raises:
        RuntimeError: it did not get ready; the message has the end of its log.
    """
    command = [
        sys.executable,
        "-m",
        "edp_robot.cli",
        "serve",
        str(bundle),
        "--bind",
        "tcp://127.0.0.1:*",
    ]
    with log.open("w") as file:
        server = subprocess.Popen(
            leashed([*command, "--provider", "cpu"]), stdout=file, stderr=subprocess.STDOUT
        )
        try:
            yield _endpoint(server, log, time.monotonic() + timeout_s)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _endpoint(server: subprocess.Popen, log: Path, until: float) -> str:
    """Returns the endpoint from the server's ready line."""
    while time.monotonic() < until and server.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("serving ") and READY in line:
                return line.split(READY, 1)[1].split(",")[0].strip()
        time.sleep(0.05)
    raise RuntimeError(f"the server did not get ready; its log ends:\n{log.read_text()[-2000:]}")
