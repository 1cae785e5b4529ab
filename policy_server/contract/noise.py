"""Draws the noise of a served policy, so that a client can reproduce it.

A session draws `latent_dim` float32 normals from NumPy's PCG64 for every act request that it
serves. A refused request draws none. `reset(seed)` restarts the noise as PCG64(seed). Before the
first reset it is PCG64([server_seed, ordinal]), where `ordinal` counts the server's sessions from
0. `hello` tells the client both.
"""

import numpy as np

MAX_SEED = 2**63 - 1


class NoiseStream:
    """The noise of one session.

    Args:
        server_seed: The server's seed.
        ordinal: The session's number on its server, from 0.
    """

    def __init__(self, server_seed: int, ordinal: int = 0):
        self._generator = np.random.Generator(np.random.PCG64([check_seed(server_seed), ordinal]))

    def reset(self, seed: int | None) -> None:
        """Restarts the noise at `seed`. None continues it.

        Raises:
            ValueError: The seed is not a whole number in [0, 2^63).
        """
        if seed is not None:
            self._generator = np.random.Generator(np.random.PCG64(check_seed(seed)))

    def draw(self, out: np.ndarray) -> np.ndarray:
        """Returns `out` (any shape, float32), filled with the noise of the next act request."""
        return self._generator.standard_normal(dtype=np.float32, out=out)


def check_seed(seed: int) -> int:
    """Returns the seed.

    Raises:
        ValueError: It is not a whole number in [0, 2^63).
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed!r}: expected a whole number in [0, 2^63)")
    return seed
