"""Runs `edp serve` as a process that is watched from outside; makes a second bundle to serve."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from peer_patterns.processes import Process, edp_serve

from policy_server.contract.bundle import Bundle, save
from policy_server.contract.onnx_import import import_onnxruntime

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        process: Its process.
        endpoint: Where it listens.
    """

    process: Process
    endpoint: str

    @property
    def log(self) -> str:
        """Its stderr so far."""
        return self.process.log.read_text()

    def rss_mib(self) -> float:
        """Returns its memory in RAM [MiB]."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * PAGE_BYTES / 2**20

    def n_files(self) -> int:
        """Returns how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextlib.contextmanager
def serving(bundle: Path, folder: Path, log: str = "server.log") -> Iterator[Served]:
    """Yields a server that runs inside the block.

    Args:
        bundle: The bundle to serve.
        folder: Where the log goes.
        log: Name of the log.

    Raises:
        RuntimeError: The server does not start.
    """
    process = Process("the server", edp_serve(bundle, "tcp://127.0.0.1:*"), folder / log)
    try:
        yield Served(process, process.endpoint())
    finally:
        process.end()


def twin(bundle: Bundle, path: Path, factor: float = 0.5) -> Bundle:
    """Returns a bundle with the same interface and other actions.

    Args:
        bundle: The bundle to change.
        path: Where to write the new one.
        factor: Factor of every matrix of the graph.
    """
    model = onnx.load_model_from_string(bundle.read("policy.onnx"))
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 2:
            changed = (factor * value).astype(value.dtype)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    onnx_bytes = model.SerializeToString()
    golden = bundle.golden()
    session = import_onnxruntime().InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    action = np.asarray(session.run(None, {"obs": golden["obs"], "noise": golden["noise"]})[0])
    manifest = replace(bundle.manifest, name=f"{bundle.manifest.name}-twin")
    return save(path, manifest, onnx_bytes=onnx_bytes, golden={**golden, "action": action})
