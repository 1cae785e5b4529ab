"""An inference backend in one file: a policy's graph in plain NumPy, by ONNX's reference evaluator.

It is slow, needs no ONNX Runtime, and shows all that a backend must have. Copy the file to your
folder as my_backend.py, and name the class:

    edp bench latency BUNDLE --backend my_backend:NumpyBackend
    edp serve BUNDLE --backend my_backend:NumpyBackend

or, in Python, `load_backend("BUNDLE", backend="my_backend:NumpyBackend")`. The caller checks
precision, provider, every shape and the bundle's golden vectors. A backend that computes another
policy does not serve.
"""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from policy_server.contract.bundle import Bundle, graph_name
from policy_server.runtime.base import BackendOptions


class NumpyBackend:
    """Computes a bundle's graph with NumPy.

    Args:
        bundle: The bundle, checked. `bundle.read(name)` gives the bytes of any of its files.
        options: Provider, threads, precision and batch sizes that are asked for.
    """

    provider = "cpu"

    def __init__(self, bundle: Bundle, options: BackendOptions):
        graph = onnx.load_model_from_string(bundle.read(graph_name(options.precision)))
        self._evaluator = ReferenceEvaluator(graph)
        self._has_noise = "noise" in self._evaluator.input_names

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Returns actions (n, horizon, act_dim) for obs (n, obs_dim), noise (n, latent_dim)."""
        feeds = {"obs": np.asarray(obs, np.float32)}
        if self._has_noise:
            feeds["noise"] = np.asarray(noise, np.float32)
        [action] = self._evaluator.run(["action"], feeds)
        return np.asarray(action)
