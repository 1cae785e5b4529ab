"""A graph of one batch size whose inputs and output never move: nothing is allocated, looked up or copied twice."""

from collections.abc import Mapping
from typing import Any

import numpy as np

WARMUP = (
    3  # ONNX Runtime captures a CUDA graph in the first run, of the buffers that are bound then
)


class BoundGraph:
    """One session with its buffers; not for several threads at once.

    Attributes:
        obs, noise, action: The buffers, batch first; noise is None where the graph has no such input. Whoever fills
            them and calls `run` saves what `act` copies.

    Args:
        runtime: The onnxruntime module.
        session: Of this batch size. It must not have run: what a CUDA graph has captured is where it reads for ever.
        shapes: Of each input and of action, batch first, by name.
        device: cpu, or cuda: buffers on the GPU too, copied from and to the arrays; a CUDA graph needs them to stay.
        staged: Whether the session has buffers of its own; None for only on the GPU.
    """

    def __init__(
        self,
        runtime: Any,
        session: Any,
        shapes: Mapping[str, tuple[int, ...]],
        device: str,
        staged: bool | None = None,
    ):
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.obs, self.noise, self.action = arrays["obs"], arrays.get("noise"), arrays["action"]
        self._batch = len(self.obs)
        self._staged = device != "cpu" if staged is None else staged
        make = runtime.OrtValue
        self._values = {
            name: make.ortvalue_from_shape_and_type(array.shape, np.float32, device, 0)
            if self._staged
            else make.ortvalue_from_numpy(array)
            for name, array in arrays.items()
        }
        self._binding = session.io_binding()
        for name, value in self._values.items():
            bind = (
                self._binding.bind_ortvalue_output
                if name == "action"
                else self._binding.bind_ortvalue_input
            )
            bind(name, value)
        self._call, self._options = session.run_with_iobinding, runtime.RunOptions()
        # unset, ONNX Runtime looks for it by an exception in each call, which costs more than a small graph
        self._options.add_run_config_entry("gpu_graph_id", "0")
        for _ in range(WARMUP):
            self.run()

    def act(self, obs: np.ndarray, noise: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns action (n, horizon, act_dim): `out` where given, else a new array; rows to spare are zeros.

        Args:
            obs: (n, obs_dim), n at most the batch size.
            noise: (n, latent_dim); ignored where the graph has no noise input.
            out: (n, horizon, act_dim) to write to.
        """
        n = len(obs)
        if n == self._batch:  # slices would take a microsecond each
            self.obs[...] = obs
            if self.noise is not None:
                self.noise[...] = noise
            self.run()
            action = self.action
        else:
            self.obs[:n], self.obs[n:] = obs, 0
            if self.noise is not None:
                self.noise[:n], self.noise[n:] = noise, 0
            self.run()
            action = self.action[:n]
        if out is None:
            return action.copy()
        out[...] = action
        return out

    def run(self) -> None:
        """Computes `action` from `obs` and `noise`."""
        if not self._staged:
            self._call(self._binding, self._options)
            return
        self._values["obs"].update_inplace(self.obs)
        if self.noise is not None:
            self._values["noise"].update_inplace(self.noise)
        self._call(self._binding, self._options)
        np.copyto(self.action, self._values["action"].numpy())
