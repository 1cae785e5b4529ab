"""A graph of one batch size whose inputs and output never move: nothing is allocated, looked up or copied twice."""

from typing import Any

import numpy as np


class BoundGraph:
    """One session with its buffers; not for several threads at once.

    Attributes:
        inputs: by name, (batch, dim) float32; what is written here is what `run` reads.
        output: (batch, horizon, act_dim) float32; where `run` puts its answer.

    Args:
        runtime: The onnxruntime module.
        session: Of a graph whose batch size is fixed.
        dims: Length of each input, by name.
        batch: The batch size.
        device: cpu, or cuda: buffers on the GPU too, copied from and to the arrays; a CUDA graph needs them to stay.
    """

    def __init__(self, runtime: Any, session: Any, dims: dict[str, int], batch: int, device: str):
        self.inputs = {name: np.zeros((batch, dim), np.float32) for name, dim in dims.items()}
        self._obs, self._noise = self.inputs["obs"], self.inputs.get("noise")
        self.output = np.ascontiguousarray(session.run(["action"], self.inputs)[0])
        value = runtime.OrtValue.ortvalue_from_numpy
        on_gpu = device != "cpu"
        self._values = {k: value(v, device, 0) if on_gpu else value(v) for k, v in self.inputs.items()}
        self._answer = value(self.output, device, 0) if on_gpu else value(self.output)
        self._binding, self._on_gpu = session.io_binding(), on_gpu
        for name, bound in self._values.items():
            self._binding.bind_ortvalue_input(name, bound)
        self._binding.bind_ortvalue_output("action", self._answer)
        self._call, self._options = session.run_with_iobinding, runtime.RunOptions()
        # unset, ONNX Runtime looks for it by an exception in each call, which costs more than a small graph
        self._options.add_run_config_entry("gpu_graph_id", "0")

    def act(self, obs: np.ndarray, noise: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Returns the action (n, horizon, act_dim) of n rows, n at most the batch size, in `out` or a new array.

        What lies in rows that are not used is of no matter: rows do not mix.
        """
        n = len(obs)
        whole = n == len(self._obs)  # slices would take a microsecond each
        np.copyto(self._obs if whole else self._obs[:n], obs)
        if self._noise is not None:
            np.copyto(self._noise if whole else self._noise[:n], noise)
        self.run()
        answer = self.output if whole else self.output[:n]
        if out is None:
            return answer.copy()
        np.copyto(out, answer)
        return out

    def run(self) -> None:
        """Computes `output` from `inputs`."""
        if not self._on_gpu:
            self._call(self._binding, self._options)
            return
        for name, bound in self._values.items():
            bound.update_inplace(self.inputs[name])
        self._call(self._binding, self._options)
        np.copyto(self.output, self._answer.numpy())
