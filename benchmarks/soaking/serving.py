"""`edp serve` in a process of its own, looked at from outside; and bundles to serve."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from edp_robot.demo.leash import leashed
from policy_server.contract.bundle import Bundle, save
from policy_server.contract.manifest import Manifest

ROOT = Path(__file__).parents[2]
READY_S = 60.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Served:
    """A running server.

    Attributes:
        process: Its process.
        endpoint: Where it listens.
        log: Its stderr.
    """

    process: subprocess.Popen[str]
    endpoint: str
    log: Path

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def rss_mib(self) -> float:
        """Returns its memory in RAM [MiB]."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * _PAGE_BYTES / 2**20

    def n_files(self) -> int:
        """Returns how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextlib.contextmanager
def serving(bundle: Path, folder: Path, log: str = "server.log") -> Iterator[Served]:
    """Yields a server that runs inside the block and dies with us. Raises RuntimeError where it does not start."""
    bind = ["--bind", "tcp://127.0.0.1:*"]
    command = [
        sys.executable,
        "-m",
        "edp_robot.cli",
        "serve",
        str(bundle),
        *bind,
        "--provider",
        "cpu",
    ]
    environment, file = {**os.environ, "OMP_NUM_THREADS": "1"}, folder / log
    with file.open("w") as errors:
        process = subprocess.Popen(
            leashed(command),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=ROOT,
        )
    assert process.stdout is not None
    timer = threading.Timer(READY_S, process.kill)
    timer.start()
    try:
        line = next((line for line in process.stdout if line.startswith("serving ")), None)
        timer.cancel()
        if line is None:
            raise RuntimeError(
                f"the server did not start within {READY_S:g} s; its log ends:\n{file.read_text()[-2000:]}"
            )
        yield Served(process, line.split(" on ", 1)[1].split(",")[0].strip(), file)
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def twin(bundle: Bundle, path: Path, factor: float = 0.5) -> Bundle:
    """Returns a bundle at `path` with the same interface and other actions: every matrix times `factor`."""
    model = onnx.load_model_from_string(bundle.read("policy.onnx"))
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 2:
            tensor.CopyFrom(
                numpy_helper.from_array((factor * value).astype(value.dtype), tensor.name)
            )
    onnx_bytes = model.SerializeToString()
    session, golden = (
        onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"]),
        bundle.golden(),
    )
    action = np.asarray(session.run(None, {"obs": golden["obs"], "noise": golden["noise"]})[0])
    kept = {field.name: getattr(bundle.manifest, field.name) for field in fields(Manifest)}
    del kept["schema_version"], kept["files"]
    kept["name"] = f"{bundle.manifest.name}-twin"
    return save(path, **kept, onnx_bytes=onnx_bytes, golden={**golden, "action": action})
