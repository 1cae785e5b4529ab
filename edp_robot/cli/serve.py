"""`edp serve` and `edp reload`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from policy_server.contract.choices import Precision, Provider

# A thread that loads a policy hands the interpreter over after this long [s]. Python's default of 5
# ms would delay the thread that serves.
SWITCH_S = 0.001


def serve(
    bundle: Positional[Path],
    bind: str = "tcp://127.0.0.1:5599",
    provider: Provider = "auto",
    seed: int = 0,
    precision: Precision = "fp32",
    backend: str = "onnxruntime",
    keys: Path | None = None,
    metrics: str | None = None,
    log: Literal["text", "json"] = "text",
    busy_poll_s: float = 0.0,
) -> int:
    """Serve a policy to robots until Ctrl-C.

    Example: edp serve runs/demo/bundle --bind tcp://127.0.0.1:5599

    SIGTERM answers the requests that wait, then ends. SIGHUP loads bundle and clients' keys again;
    one that comes while the bundle is being loaded does so afterwards.

    Args:
        bundle: Folder of the policy bundle.
        bind: tcp://127.0.0.1:PORT (* for a free port) or ipc://PATH; other addresses need --keys.
        provider: Device that computes. auto takes the faster of CPU and CUDA.
        seed: Seeds the noise that the policy samples with.
        precision: Version of the policy: fp32, or what `edp calibrate quant` added to the bundle.
        backend: Runtime that computes; `edp plugins` lists them. Your own: package.module:Class.
        keys: Folder of `edp keys new`. Clients then need a key, and all traffic is encrypted.
        metrics: HOST:PORT to serve /metrics and /healthz on, for example 127.0.0.1:9464.
        log: Format of the events on stderr: text, or json with one object a line.
        busy_poll_s: Time to poll for the next message before sleeping [s], at most 0.1. It avoids
            the slow wake-up of a core, and needs a core that nothing else uses.
    """
    from policy_server.contract.signals import noting_hang_up

    options = {"seed": seed, "precision": precision, "busy_poll_s": busy_poll_s, "backend": backend}
    with contextlib.ExitStack() as stack:
        hung_up = stack.enter_context(noting_hang_up())
        from policy_server.observe import logs
        from policy_server.observe.monitor import Monitor
        from policy_server.serving.server import PolicyServer
        from policy_server.transport.keys import ServerKeys

        sys.setswitchinterval(SWITCH_S)
        logs.setup(log)
        server_keys = None if keys is None else ServerKeys.load(keys)
        monitor = stack.enter_context(contextlib.closing(Monitor(metrics))) if metrics else None
        options.update(keys=server_keys, monitor=monitor)
        server = PolicyServer(bundle, bind, provider, **options)
        server.run(hung_up.is_set)
    return 0


def reload(
    server: str = "tcp://127.0.0.1:5599", rollback: bool = False, keys: Path | None = None
) -> int:
    """Make a running server load its bundle again, or return to the previous one.

    Example: edp reload --server tcp://127.0.0.1:5599

    Args:
        server: Endpoint of the server.
        rollback: Return to the policy before the last reload.
        keys: This client's NAME.key_secret, or the folder that holds it and server.key.
    """
    from policy_server.control.client import PolicyClient
    from policy_server.transport.keys import client_keys

    with PolicyClient(server, keys=client_keys(keys)) as client:
        swapped = client.rollback() if rollback else client.reload()
    now = swapped["bundle_hash"][:12]
    before = swapped["previous_bundle_hash"][:12]
    print(f"serving {now}, before {before}")
    return 0
