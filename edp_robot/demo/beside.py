"""Commands that run one after another in processes of their own, beside what this one does."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from edp_robot.demo.leash import leashed

EDP = [sys.executable, "-m", "edp_robot.cli"]


class Beside:
    """Runs `edp` commands in the order in which they are added, one at a time.

    As a context it stops the command at hand at the end, however the block ends.

    Args:
        log: File for what they print.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._waiting: queue.Queue[tuple[str, ...] | None] = queue.Queue()
        self._process: subprocess.Popen | None = None
        self._failed: str = ""
        self._is_over = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        """Starts with an empty list."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Drops what was not begun, and ends the command at hand."""
        self._is_over = True
        self._waiting.put(None)
        if self._process is not None:
            self._process.terminate()
        self._thread.join()

    def add(self, *words: str) -> None:
        """Lets `edp WORDS` run after what was added before."""
        self._waiting.put(words)

    def wait(self) -> None:
        """Returns when all commands have ended.

        Raises:
            RuntimeError: One of them failed. Those after it were not begun.
        """
        self._waiting.join()
        if self._failed:
            raise RuntimeError(f"`edp {self._failed}` failed; see {self.log}")

    def _work(self) -> None:
        with self.log.open("w") as file:
            while (words := self._waiting.get()) is not None:
                if not (self._failed or self._is_over):
                    self._run(words, file)
                self._waiting.task_done()
        self._waiting.task_done()

    def _run(self, words: tuple[str, ...], file: Any) -> None:
        streams = {"stdout": file, "stderr": file}
        process = subprocess.Popen(leashed([*EDP, *words]), start_new_session=True, **streams)
        self._process = process
        if self._is_over:
            process.terminate()
        if process.wait():
            self._failed = " ".join(words)
