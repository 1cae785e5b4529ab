"""The policy behind every peer's server: the same bundle, the same backend, the same noise as `edp serve` draws."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from peer_patterns import SEED
from policy_server.runtime.base import load_backend


class Policy:
    """A bundle on the CPU, one obs at a time; may be called from several threads."""

    def __init__(self, bundle: str | Path):
        self.backend = load_backend(bundle, "cpu")
        self._noise = np.random.Generator(np.random.PCG64(SEED))
        self._lock = threading.Lock()

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Returns action (horizon, act_dim) float32 for obs (obs_dim,)."""
        with self._lock:
            noise = self._noise.standard_normal(
                (1, self.backend.manifest.latent_dim), dtype=np.float32
            )
            return self.backend.act(obs[None], noise)[0]
