"""`edp evaluate`: a run in torch, a bundle in ONNX Runtime, or a server over the wire, on the same episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from edp_robot.cli.train import FROM, write_json


def evaluate(
    start: Annotated[Path | None, FROM] = None,
    bundle: Path | None = None,
    server: str | None = None,
    task: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    json: Path | None = None,
    keys: Path | None = None,
) -> int:
    """Measure success and return over whole episodes; give exactly one of --from, --bundle, --server.

    Example: edp evaluate --bundle runs/demo/bundle --episodes 200

    Args:
        start: Run folder.
        bundle: Bundle folder, run here by ONNX Runtime.
        server: Endpoint of a running server.
        task: Task to evaluate on; the policy's own where not given.
        episodes: How many.
        seed: Of start poses and noise.
        json: File to write the result to.
        keys: A client's NAME.key_secret, or the folder with it and server.key, for a server with keys.
    """
    given = [x for x in (start, bundle, server) if x is not None]
    if len(given) != 1:
        raise ValueError(f"{len(given)} of --from, --bundle, --server given; give exactly one")
    from policy_server.control.client import PolicyClient
    from policy_server.transport.keys import client_keys
    from sim.core.evaluate import evaluate as run

    found_keys = client_keys(keys, has_server=server is not None)
    if start is not None:
        from edp_robot.deploy.export import load_policy
        from edp_robot.training.actor import torch_actor

        item = load_policy(start)
        name, n_action_steps, act = (
            item.source.spec.name,
            item.source.n_action_steps,
            torch_actor(item.policy, seed),
        )
    elif bundle is not None:
        name, n_action_steps, act = _bundle_actor(bundle, task, seed)
    else:
        name, n_action_steps, act = _server_actor(
            PolicyClient(str(server), keys=found_keys), task, seed
        )
    result = run(act, task or name, episodes, seed, n_action_steps)
    print(
        f"{task or name}: success {result.success:.3f} [{result.success_low:.3f}, {result.success_high:.3f}], "
        f"return {result.mean_return:.2f}, {episodes} episodes"
    )
    write_json(json, {"task": task or name, **result.to_json()})
    return 0


def _bundle_actor(bundle: Path, task: str | None, seed: int):
    """Returns (task, held steps, ActFn) of a bundle; commands go back to normalised actions by the action map."""
    from calibration.precision.visited import bundle_actor
    from policy_server.runtime.base import load_backend
    from sim.core.registry import task_spec

    backend = load_backend(bundle)
    manifest = backend.manifest
    act = bundle_actor(backend, task_spec(task or manifest.task), manifest.latent_dim, seed)
    return manifest.task, manifest.n_action_steps, act


def _server_actor(client: Any, task: str | None, seed: int):
    """Returns (task, held steps, ActFn) of a server, asked one observation at a time by this `PolicyClient`."""
    from sim.core.registry import task_spec

    manifest = client.manifest
    amap = task_spec(task or manifest.task).action_map
    client.reset(seed)

    def act(obs: np.ndarray) -> np.ndarray:
        return amap.action(obs, np.stack([client.act(row) for row in obs]))

    return manifest.task, manifest.n_action_steps, act
