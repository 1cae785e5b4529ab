"""A peer's server in a process of its own: `python -m peer_patterns.serve PATTERN BUNDLE`."""

from __future__ import annotations

import importlib
import sys

from peer_patterns.policy import Policy
from policy_server.control.clock import quiet


def main(pattern: str, bundle: str) -> None:
    """Serves until it is ended; prints a line like that of `edp serve` when ready."""
    policy = Policy(bundle)
    policy.backend.self_test()
    module = importlib.import_module(f"peer_patterns.{pattern}")
    with quiet():
        module.serve(
            policy,
            lambda endpoint: print(f"serving {pattern} on {endpoint}, provider cpu", flush=True),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
