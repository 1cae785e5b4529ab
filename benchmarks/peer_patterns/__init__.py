"""The patterns by which robots ask policies elsewhere, written from their documented protocols.

Each module has `serve(policy, ready)` for the server's process and `Client(endpoint)` for the
client's. `ours` has only a client, since its server is `edp serve`. Logging, filters of similar
observations, added sleeps, and torch tensors in place of arrays are left out, which is in the
patterns' favour.
"""

from typing import Literal, get_args

Ours = Literal["edp-tcp", "edp-ipc", "edp-ipc-poll"]
Peer = Literal["openpi", "gr00t", "lerobot"]
Pattern = Ours | Peer
OURS: tuple[Ours, ...] = get_args(Ours)
PEERS: tuple[Peer, ...] = get_args(Peer)
PATTERNS: tuple[Pattern, ...] = (*OURS, *PEERS)
SEED = 7  # seeds the noise that every pattern's first client is answered with
