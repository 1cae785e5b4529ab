"""Our own client. The server is `edp serve`, over tcp or ipc."""

from __future__ import annotations

import numpy as np

from peer_patterns import SEED
from policy_server.control.client import PolicyClient


class Client:
    """A `PolicyClient` whose session draws its noise from SEED."""

    def __init__(self, endpoint: str):
        self._client = PolicyClient(endpoint, timeout_s=10.0)
        self._client.reset(SEED)

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Returns action (horizon, act_dim)."""
        return self._client.act(obs)

    def numbers(self, answer: np.ndarray) -> np.ndarray:
        """Returns the action of an answer of `act`."""
        return answer
