"""A graph on one provider: sessions with buffers for static batch sizes, and a dynamic one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policy_server.contract.choices import Precision
from policy_server.contract.errors import BackendError
from policy_server.runtime.base import inference_error
from policy_server.runtime.onnxruntime.bound import OUTPUTS, BoundGraph
from policy_server.runtime.onnxruntime.providers import (
    check_available,
    import_runtime,
    open_session,
)

Shape = tuple[int, ...]
INPUTS = ("obs", "noise", "state")


class OnnxPolicy:
    """A raw ONNX policy: obs and noise in, action chunk out, float32.

    A policy with memory also takes `state` and gives back `next_state`; `step` computes it.

    Only one thread may use it at a time.

    Each of `batch_sizes` gets a session of static shape with bound buffers. Any other number of
    rows goes to the smallest one that holds it, else to the dynamic graph. If the batch cannot be
    dynamic, the rows go to the largest one in chunks.

    Attributes:
        provider: Device in use.
        shapes: Shape of each input and output as the graph declares it, batch first.
        sizes: Batch sizes that have buffers, in rising order.

    Args:
        onnx: Path of the graph, or its bytes.
        provider: cpu, cuda or tensorrt.
        n_threads: Threads inside one operator on the CPU. If there are several, each is pinned to a
            core.
        batch_sizes: Numbers of rows to be ready for.
        precision: Precision of the graph.

    Raises:
        BackendError: The runtime or the provider is missing, or the graph is not a policy.
    """

    def __init__(
        self,
        onnx: str | Path | bytes,
        provider: str = "cpu",
        n_threads: int = 1,
        batch_sizes: Sequence[int] = (1,),
        precision: Precision = "fp32",
    ):
        graph = onnx if isinstance(onnx, bytes) else Path(onnx).read_bytes()
        runtime = import_runtime()
        check_available(runtime, provider)
        self.provider = provider

        def session(batch: tuple[str, int] | None, device: str = provider) -> Any:
            return open_session(runtime, graph, device, n_threads, batch, precision)

        # TensorRT takes minutes to build an engine for each size that comes, so there the dynamic
        # session only tells the shapes.
        self._session = session(None, "cpu" if provider == "tensorrt" else provider)
        self.shapes = _ports(self._session)
        self._batch = (self.shapes["obs"] or [None])[0]
        self._dynamic = self._batch != 1 and provider != "tensorrt"
        self._outputs = [name for name in OUTPUTS if name in self.shapes]
        self.sizes = self._static_sizes(batch_sizes)
        if provider == "tensorrt" and not self.sizes:
            raise BackendError(
                "provider tensorrt needs static shapes, and the graph leaves them open: "
                f"{self.shapes}"
            )
        # by number of rows: the graph with buffers for it, and the shapes of obs, noise and state
        self._ready: dict[int, tuple[BoundGraph, Shape, Shape | None, Shape | None]] = {}
        rows = self._row_shapes() if self.sizes else {}
        for size in self.sizes:
            static = session(None if self._batch == 1 else (self._batch, size))
            self._make_ready(runtime, static, {name: (size, *row) for name, row in rows.items()})

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns new actions (n, horizon, act_dim) float32.

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim); ignored if the graph has no noise input.

        Raises:
            BackendError: A shape is wrong, or the runtime refused.
        """
        ready = self._ready.get(len(obs))
        if ready is None:
            return self._many((obs, noise))[0]
        bound, obs_shape, noise_shape, _ = ready
        # NumPy would stretch one row, or one number, over the whole buffer.
        if obs.shape != obs_shape or (noise_shape is not None and noise.shape != noise_shape):
            raise BackendError(
                f"obs {obs.shape}, noise {noise.shape}: expected {obs_shape}, {noise_shape}"
            )
        return bound.act(obs, noise)

    def step(
        self, obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns new actions (n, horizon, act_dim) and the states after them (n, state_dim).

        Args:
            obs: (n, obs_dim).
            noise: (n, latent_dim); ignored if the graph has no noise input.
            state: (n, state_dim); given back as it is if the graph has no memory.

        Raises:
            BackendError: A shape is wrong, or the runtime refused.
        """
        if "state" not in self.shapes:
            return self.act(obs, noise), state
        ready = self._ready.get(len(obs))
        if ready is None:
            action, next_state = self._many((obs, noise, state))
            return action, next_state
        bound, obs_shape, noise_shape, state_shape = ready
        wanted = (obs_shape, noise_shape or noise.shape, state_shape)
        given = (obs.shape, noise.shape, state.shape)
        if given != wanted:
            raise BackendError(f"obs, noise, state {given}: expected {wanted}")
        return bound.step(obs, noise, state)

    def buffers(self, n: int) -> BoundGraph | None:
        """Returns the graph whose buffers hold `n` rows, or None if there are none of that size."""
        return self._ready[n][0] if n in self._ready else None

    def _static_sizes(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Returns the static batch sizes, in rising order.

        There are none if a row is open, or if the batch is open and has no name to fix it by.
        """
        rows = [dim for name in self._inputs() for dim in self.shapes[name][1:]]
        if not all(isinstance(dim, int) for dim in rows):
            return ()
        if self._batch == 1:
            return (1,)
        return tuple(sorted(set(wanted))) if isinstance(self._batch, str) else ()

    def _row_shapes(self) -> dict[str, Shape]:
        """Returns the shapes of one row by name. The answer to zeros gives those of the outputs."""
        rows = {name: tuple(self.shapes[name][1:]) for name in self._inputs()}
        zeros = {name: np.zeros((1, *row), np.float32) for name, row in rows.items()}
        answers = zip(self._outputs, self._run(zeros), strict=True)
        return {**rows, **{name: answer.shape[1:] for name, answer in answers}}

    def _inputs(self) -> list[str]:
        """Returns the names of the inputs, in the order obs, noise, state."""
        return [name for name in INPUTS if name in self.shapes]

    def _make_ready(self, runtime: Any, session: Any, shapes: dict[str, Shape]) -> None:
        """Binds a session to buffers, for all sizes up to its own that have none yet."""
        device = "cpu" if self.provider == "cpu" else "cuda"
        bound = BoundGraph(runtime, session, shapes, device)
        for n in range(len(self._ready), shapes["obs"][0] + 1):
            sized = {name: (n, *shapes[name][1:]) for name in self._inputs()}
            self._ready[n] = (bound, sized["obs"], sized.get("noise"), sized.get("state"))

    def _many(self, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for more rows than buffers hold: in one call, or in chunks.

        Args:
            given: obs, noise and, for a policy with memory, state.
        """
        n = len(given[0])
        if self._dynamic or (n == 1 and not self.sizes):
            named: dict[str, np.ndarray] = dict(zip(INPUTS, given, strict=False))
            rows = {name: named[name] for name in self._inputs()}
            return self._run({k: np.ascontiguousarray(v, np.float32) for k, v in rows.items()})
        size = self.sizes[-1] if self.sizes else 1
        parts = [slice(start, start + size) for start in range(0, n, size)]
        answers = [self._rows([array[part] for array in given]) for part in parts]
        return [np.concatenate(outputs) for outputs in zip(*answers, strict=True)]

    def _rows(self, given: list[np.ndarray]) -> Sequence[np.ndarray]:
        """Returns the outputs for rows that buffers hold."""
        return self.step(*given) if len(given) == len(INPUTS) else (self.act(*given),)

    def _run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Returns what the dynamic session answers: action, and next_state if there is one."""
        try:
            return self._session.run(self._outputs, feeds)
        except Exception as error:  # ONNX Runtime raises several private types
            raise inference_error(self.provider, error) from error


def _ports(session: Any) -> dict[str, list[Any]]:
    """Returns the shapes of inputs and output by name. Raises BackendError unless they fit."""
    nodes = (*session.get_inputs(), *session.get_outputs())
    inputs = {node.name: node.shape for node in session.get_inputs()}
    outputs = {node.name: node.shape for node in session.get_outputs()}
    types = {node.type for node in nodes}
    remembers = "state" in inputs
    named = (
        {"obs"} <= set(inputs) <= set(INPUTS)
        and set(outputs) == set(OUTPUTS if remembers else ("action",))
        and types == {"tensor(float)"}
    )
    if not named:
        raise BackendError(
            f"graph has inputs {inputs}, outputs {outputs}, types {sorted(types)}; "
            "expected float32 inputs obs and noise (noise may be missing) and output action, "
            "with memory also input state and output next_state"
        )
    return {**inputs, **outputs}
