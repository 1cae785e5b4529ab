"""A graph of one batch size with inputs and output that never move: a query allocates nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policy_server.runtime.base import inference_error

# ONNX Runtime captures a CUDA graph in the first run, from the buffers that are bound then.
WARMUP = 3
OUTPUTS = ("action", "next_state")


class BoundGraph:
    """One session with its buffers. Only one thread may use it at a time.

    Attributes:
        obs: Input buffer (batch, obs_dim).
        noise: Input buffer (batch, latent_dim); without columns if the graph has no such input.
        state: Input buffer (batch, state_dim); without columns if the graph has no memory.
        action: Output buffer (batch, horizon, act_dim). `run` fills it.
        next_state: Output buffer (batch, state_dim); without columns if the graph has no memory.

    Args:
        runtime: The onnxruntime module.
        session: A session of this batch size. It must not have run: a captured CUDA graph always
            reads from the buffers of its first run.
        shapes: Shape of each input and output, batch first, by name.
        device: cpu or cuda. cuda: there are buffers on the GPU too, and `run` copies to and from
            them.
        staged: Whether the session has buffers of its own. None: only on the GPU.

    Raises:
        BackendError: The runtime refused the buffers, or failed.
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
        self.obs = arrays["obs"]
        self.noise = arrays.get("noise", np.zeros((len(self.obs), 0), np.float32))
        self.action = arrays["action"]
        self.state = arrays.get("state", np.zeros((len(self.obs), 0), np.float32))
        self.next_state = arrays.get("next_state", np.zeros_like(self.state))
        self._has_noise = "noise" in arrays
        self._inputs = [name for name in arrays if name not in OUTPUTS]
        self._outputs = [name for name in arrays if name in OUTPUTS]
        self._arrays = arrays
        self._batch = len(self.obs)
        self._device = device
        self._staged = device != "cpu" if staged is None else staged
        self._call = session.run_with_iobinding
        self._binding = session.io_binding()
        self._options = runtime.RunOptions()
        # Without this entry, ONNX Runtime raises and catches an exception in each call, which takes
        # longer than a small graph.
        self._options.add_run_config_entry("gpu_graph_id", "0")
        try:
            self._values = {name: self._bind(runtime, name, arrays[name]) for name in arrays}
        except Exception as error:  # ONNX Runtime raises several private types
            raise inference_error(device, error) from error
        for _ in range(WARMUP):
            self.run()

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns new actions (n, horizon, act_dim). The buffers' other rows become zeros.

        Args:
            obs: (n, obs_dim), n at most the batch size.
            noise: (n, latent_dim); ignored if the graph has no noise input.

        Raises:
            BackendError: The runtime failed.
        """
        n = len(obs)
        if n == self._batch:  # slices would take a microsecond each
            self.obs[...] = obs
            if self._has_noise:
                self.noise[...] = noise
            self.run()
            return self.action.copy()
        self.obs[:n] = obs
        self.obs[n:] = 0
        if self._has_noise:
            self.noise[:n] = noise
            self.noise[n:] = 0
        self.run()
        return self.action[:n].copy()

    def step(
        self, obs: np.ndarray, noise: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns new actions (n, horizon, act_dim) and states (n, state_dim), as `act` does.

        Args:
            obs: (n, obs_dim), n at most the batch size.
            noise: (n, latent_dim); ignored if the graph has no noise input.
            state: (n, state_dim).

        Raises:
            BackendError: The runtime failed.
        """
        n = len(state)
        self.state[:n] = state
        self.state[n:] = 0
        action = self.act(obs, noise)
        return action, self.next_state[:n].copy()

    def run(self) -> None:
        """Computes `action` and `next_state` from `obs`, `noise` and `state`.

        Raises:
            BackendError: The runtime failed.
        """
        try:
            if not self._staged:
                self._call(self._binding, self._options)
                return
            for name in self._inputs:
                self._values[name].update_inplace(self._arrays[name])
            self._call(self._binding, self._options)
            for name in self._outputs:
                np.copyto(self._arrays[name], self._values[name].numpy())
        except Exception as error:  # ONNX Runtime raises several private types
            raise inference_error(self._device, error) from error

    def _bind(self, runtime: Any, name: str, array: np.ndarray) -> Any:
        """Returns the runtime's value for `array`, bound to the input or output `name`."""
        make = runtime.OrtValue
        value = (
            make.ortvalue_from_shape_and_type(array.shape, np.float32, self._device, 0)
            if self._staged
            else make.ortvalue_from_numpy(array)
        )
        if name in OUTPUTS:
            self._binding.bind_ortvalue_output(name, value)
        else:
            self._binding.bind_ortvalue_input(name, value)
        return value
