"""The patterns by which robots ask policies elsewhere, written from their documented protocols, for `peers.py`.

Each module has `serve(policy, ready)` for the server's process and `Client(endpoint)` for the client's; `ours` has only
a client, since its server is `edp serve`. What a pattern's own software does beside (logging, filters of similar
observations, added sleeps, torch tensors in place of arrays) is left out, which is in its favour.
"""

PEERS = ("openpi", "gr00t", "lerobot")
OURS = ("edp-tcp", "edp-ipc", "edp-ipc-poll")
PATTERNS = (*OURS, *PEERS)
SEED = 7  # of the noise that every pattern's first client is answered with
