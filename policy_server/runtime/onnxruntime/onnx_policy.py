"""A graph on one provider: a session with buffers for each static batch size, and one for every other size."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from policy_server.contract.choices import Precision, Provider
from policy_server.contract.errors import BackendError
from policy_server.runtime.onnxruntime.bound import BoundGraph
from policy_server.runtime.onnxruntime.providers import (
    check_available,
    first_line,
    import_runtime,
    open_session,
)


class OnnxPolicy:
    """A raw ONNX policy: obs and noise in, action chunk out, float32. Not for several threads at once.

    Each of `batch_sizes` gets a session of static shape with bound buffers; any other number of rows goes to the
    smallest that holds it, or to the dynamic graph, or, where the batch cannot be dynamic, there in chunks.

    Args:
        onnx: Path of the graph, or its bytes.
        provider: cpu, cuda or tensorrt; auto takes cuda where it runs, else cpu.
        n_threads: Threads inside one operator on the CPU; of more than one, each is pinned to a core.
        batch_sizes: Numbers of rows to be ready for.
        precision: Of the graph.

    Raises:
        BackendError: The runtime or the provider is missing, or the graph is not a policy.
    """

    def __init__(
        self,
        onnx: str | Path | bytes,
        provider: Provider = "cpu",
        n_threads: int = 1,
        batch_sizes: Sequence[int] = (1,),
        precision: Precision = "fp32",
    ):
        graph = onnx if isinstance(onnx, bytes) else Path(onnx).read_bytes()
        runtime = import_runtime()
        self.provider = _resolved(runtime, provider)
        # TensorRT builds an engine for each size that comes, in minutes: there, this session only tells the shapes
        dynamic = "cpu" if self.provider == "tensorrt" else self.provider
        self._session = open_session(runtime, graph, dynamic, n_threads, None, precision)
        self.shapes = _ports(self._session)
        self._batch = (self.shapes["obs"] or [None])[0]
        self._dynamic = self._batch != 1 and self.provider != "tensorrt"
        self._ready: dict[
            int, tuple
        ] = {}  # by number of rows: the graph with buffers for it, and the shapes it takes
        self.sizes = self._sizes(batch_sizes)
        if self.provider == "tensorrt" and not self.sizes:
            raise BackendError(
                f"provider tensorrt needs static shapes, and the graph leaves them open: {self.shapes}"
            )
        rows = self._guarded(self._row_shapes) if self.sizes else {}
        for size in self.sizes:
            batch = None if self._batch == 1 else (self._batch, size)
            static = open_session(runtime, graph, self.provider, n_threads, batch, precision)
            shapes = {name: (size, *row) for name, row in rows.items()}
            bound = self._guarded(
                BoundGraph, runtime, static, shapes, "cpu" if self.provider == "cpu" else "cuda"
            )
            for n in range(len(self._ready), size + 1):
                self._ready[n] = (
                    bound,
                    *((n, *rows[k]) if k in rows else None for k in ("obs", "noise", "action")),
                )

    def act(self, obs: np.ndarray, noise: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns action (n, horizon, act_dim) float32.

        Args:
            obs: (n, obs_dim) float32.
            noise: (n, latent_dim) float32; ignored where the graph has no noise input.
            out: Where to write the action; then nothing is allocated. None for a new array.

        Raises:
            BackendError: A shape is wrong, or the runtime refused.
        """
        ready = self._ready.get(len(obs))
        if ready is None:
            return self._guarded(self._many, obs, noise, out)
        bound, obs_shape, noise_shape, shape = ready
        if (
            obs.shape != obs_shape
            or (noise_shape is not None and noise.shape != noise_shape)
            or (out is not None and out.shape != shape)
        ):  # NumPy would stretch one row, or one number, over the whole buffer
            given = (obs.shape, noise.shape, None if out is None else out.shape)
            raise BackendError(
                f"obs, noise, out {given}: expected {obs_shape}, {noise_shape}, {shape}"
            )
        try:
            return bound.act(obs, noise, out)
        except Exception as error:  # ONNX Runtime raises several private types
            raise BackendError(
                f"inference failed on {self.provider}: {first_line(error)}"
            ) from error

    def buffers(self, n: int) -> BoundGraph | None:
        """Returns the graph whose buffers hold `n` rows, or None where there is none of that size."""
        return self._ready[n][0] if n in self._ready else None

    def _sizes(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Returns the static batch sizes, rising; none where the graph leaves its batch without name, or a row open."""
        rows = [dim for name in self.shapes if name != "action" for dim in self.shapes[name][1:]]
        if not all(isinstance(dim, int) for dim in rows):
            return ()
        return (
            (1,)
            if self._batch == 1
            else tuple(sorted(set(wanted)))
            if isinstance(self._batch, str)
            else ()
        )

    def _row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of one row by name; an answer to zeros tells that of action."""
        rows = {name: tuple(shape[1:]) for name, shape in self.shapes.items() if name != "action"}
        zeros = {name: np.zeros((1, *row), np.float32) for name, row in rows.items()}
        return {**rows, "action": self._session.run(["action"], zeros)[0].shape[1:]}

    def _many(self, obs: np.ndarray, noise: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Returns the actions of as many rows as no buffer has: in one call, or in chunks of what can be called."""
        if self._dynamic or (len(obs) == 1 and not self.sizes):
            feeds = {"obs": np.ascontiguousarray(obs, dtype=np.float32)}
            if "noise" in self.shapes:
                feeds["noise"] = np.ascontiguousarray(noise, dtype=np.float32)
            action = self._session.run(("action",), feeds)[0]
        else:
            size = self.sizes[-1] if self.sizes else 1
            parts = [slice(i, i + size) for i in range(0, len(obs), size)]
            action = np.concatenate([self.act(obs[part], noise[part]) for part in parts])
        if out is None:
            return action
        np.copyto(out, action)
        return out

    def _guarded(self, work, *args):
        """Returns what `work` returns. Raises BackendError for whatever it raises: ONNX Runtime has private types."""
        try:
            return work(*args)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(
                f"inference failed on {self.provider}: {first_line(error)}"
            ) from error


def _resolved(runtime, provider: Provider) -> str:
    """Returns the provider to use. Raises BackendError for one that does not exist or cannot run here."""
    if provider not in get_args(Provider):
        raise BackendError(
            f"provider {provider!r}: expected one of {', '.join(get_args(Provider))}"
        )
    if provider == "auto":
        try:
            check_available(runtime, "cuda")
            return "cuda"
        except BackendError:
            return "cpu"
    check_available(runtime, provider)
    return provider


def _ports(session) -> dict[str, list]:
    """Returns the shapes of inputs and output by name. Raises BackendError where they are not a policy's."""
    nodes = (*session.get_inputs(), *session.get_outputs())
    inputs = {node.name: node.shape for node in session.get_inputs()}
    outputs = {node.name: node.shape for node in session.get_outputs()}
    types = {node.type for node in nodes}
    if (
        set(inputs) not in ({"obs"}, {"obs", "noise"})
        or set(outputs) != {"action"}
        or types != {"tensor(float)"}
    ):
        raise BackendError(
            f"graph has inputs {inputs}, outputs {outputs}, types {sorted(types)}; expected float32 inputs obs and "
            "noise (noise may be missing) and output action"
        )
    return {**inputs, **outputs}
