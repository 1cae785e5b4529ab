"""What `edp serve` and `edp reload` do; each function returns an exit code."""

import sys
from pathlib import Path

from edp_robot.cli.guard import guarded
from policy_server.contract.bundle import Precision
from policy_server.observe.logs import Format
from policy_server.runtime.base import Provider

SWITCH_S = 0.001  # a thread that loads a policy gives way to the one that serves after this long, not after 5 ms


def serve(
    bundle: str,
    bind: str = "tcp://127.0.0.1:5599",
    provider: Provider = "auto",
    seed: int = 0,
    precision: Precision = "fp32",
    keys: Path | None = None,
    metrics: str | None = None,
    log: Format = "text",
    busy_poll_s: float = 0.0,
) -> int:
    """Serve a policy to robots until Ctrl-C.

    Example: edp serve runs/demo/bundle --bind tcp://127.0.0.1:5599

    SIGTERM answers what waits and ends; SIGHUP loads the bundle, and the keys of the clients, again.

    Args:
        bundle: Folder of the policy bundle.
        bind: Where to listen: tcp://127.0.0.1:PORT (* for a free port) or ipc://PATH; off loopback only with keys.
        provider: What computes; auto takes the faster of CPU and CUDA. One that is named is used or refused.
        seed: Seed of the noise that the policy samples with.
        precision: fp32, or what `edp calibrate quant` has put into the bundle.
        keys: Folder of `edp keys new`: clients must prove who they are, and everything is encrypted.
        metrics: HOST:PORT of pages for Prometheus and health checks, like 127.0.0.1:9464.
        log: How events are written to stderr: text, or json, one object a line.
        busy_poll_s: How long after a message to look for more without a pause before sleeping [s], at most 0.1: a
            core that sleeps is slow to wake. Wants a core that nobody else uses.
    """

    def work() -> None:
        from policy_server.observe import logs
        from policy_server.observe.monitor import Monitor
        from policy_server.serving.server import PolicyServer
        from policy_server.transport.keys import ServerKeys

        sys.setswitchinterval(SWITCH_S)
        logs.setup(log)
        monitor = None if metrics is None else Monitor(metrics)
        try:
            server_keys = None if keys is None else ServerKeys.load(keys)
            PolicyServer(
                bundle, bind, provider, seed, precision, server_keys, monitor, busy_poll_s
            ).run()
        finally:
            if monitor is not None:
                monitor.close()

    return guarded("serve", work)


def reload(
    server: str = "tcp://127.0.0.1:5599", rollback: bool = False, keys: Path | None = None
) -> int:
    """Let a running server load its bundle again, or go back to the one before.

    Example: edp reload --server tcp://127.0.0.1:5599

    Args:
        server: Endpoint of the server.
        rollback: Go back to the policy before the last reload.
        keys: A client's NAME.key_secret, or the folder with it and server.key, for a server with keys.
    """

    def work() -> None:
        from policy_server.control.client import PolicyClient
        from policy_server.transport.keys import client_keys

        with PolicyClient(server, keys=client_keys(keys)) as client:
            swapped = client.rollback() if rollback else client.reload()
        print(
            f"serving {swapped['bundle_hash'][:12]}, before {swapped['previous_bundle_hash'][:12]}"
        )

    return guarded("reload", work)
