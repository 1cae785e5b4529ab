"""The policy behind every peer's server: the bundle, backend and noise that `edp serve` uses."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from peer_patterns import SEED
from policy_server.runtime.base import load_backend


class Policy:
    """Runs a bundle on the CPU, one obs at a time. Several threads may call it."""

    def __init__(self, bundle: str | Path):
        self.backend = load_backend(bundle, "cpu")
        self._noise = np.random.Generator(np.random.PCG64(SEED))
        self._lock = threading.Lock()

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Returns action (horizon, act_dim) float32 for obs (obs_dim,)."""
        with self._lock:
            shape = (1, self.backend.manifest.latent_dim)
            noise = self._noise.standard_normal(shape, dtype=np.float32)
            return self.backend.act(obs[None], noise)[0]
