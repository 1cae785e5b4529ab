"""Runs a peer's server: `python -m peer_patterns.serve PATTERN BUNDLE`."""

from __future__ import annotations

import importlib
import sys

from peer_patterns.policy import Policy
from policy_server.contract.clock import quiet


def main(pattern: str, bundle: str) -> None:
    """Serves until the process ends; prints a line like that of `edp serve` when ready."""
    policy = Policy(bundle)
    policy.backend.self_test()
    module = importlib.import_module(f"peer_patterns.{pattern}")

    def ready(endpoint: str) -> None:
        print(f"serving {pattern} on {endpoint}, provider cpu", flush=True)

    with quiet():
        module.serve(policy, ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
