"""`edp evaluate`: a run in torch, a bundle in ONNX Runtime, or a server over the wire, on the same episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np

from .train import FROM, write_json


def evaluate(
    start: Annotated[Path | None, FROM] = None,
    bundle: Path | None = None,
    server: str | None = None,
    task: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    json: Path | None = None,
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
    """
    given = [x for x in (start, bundle, server) if x is not None]
    if len(given) != 1:
        raise ValueError(f"{len(given)} of --from, --bundle, --server given; give exactly one")
    from sim.evaluate import evaluate as run

    from ..stages.evaluate import torch_actor

    if start is not None:
        from ..stages.export import load_policy

        item = load_policy(start)
        name, n_action_steps, act = item.source.spec.name, item.source.n_action_steps, torch_actor(item.policy, seed)
    else:
        found = _bundle_actor(bundle, task, seed) if bundle else _server_actor(str(server), task, seed)
        name, n_action_steps, act = found
    result = run(act, task or name, episodes, seed, n_action_steps)
    print(
        f"{task or name}: success {result.success:.3f} [{result.success_low:.3f}, {result.success_high:.3f}], "
        f"return {result.mean_return:.2f}, {episodes} episodes"
    )
    write_json(json, {"task": task or name, **result.to_json()})
    return 0


def _bundle_actor(bundle: Path, task: str | None, seed: int):
    """Returns (task, held steps, ActFn) of a bundle; commands go back to normalised actions by the action map."""
    from calibration.visited import bundle_actor
    from policy_server.backends import load
    from sim.registry import task_spec

    backend = load(bundle)
    manifest = backend.manifest
    act = bundle_actor(backend, task_spec(task or manifest.task), manifest.latent_dim, seed)
    return manifest.task, manifest.n_action_steps, act


def _server_actor(endpoint: str, task: str | None, seed: int):
    """Returns (task, held steps, ActFn) of a server, asked one observation at a time."""
    from policy_server.client import PolicyClient
    from sim.registry import task_spec

    client = PolicyClient(endpoint)
    manifest = client.manifest
    amap = task_spec(task or manifest.task).action_map
    client.reset(seed)

    def act(obs: np.ndarray) -> np.ndarray:
        return amap.action(obs, np.stack([client.act(row) for row in obs]))

    return manifest.task, manifest.n_action_steps, act
