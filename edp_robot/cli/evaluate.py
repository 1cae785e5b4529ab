"""`edp evaluate`: runs a policy on whole episodes, from a run, a bundle or a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np

from edp_robot.cli.arguments import FROM
from policy_server.contract.files import write_json


def evaluate(
    start: Annotated[Path | None, FROM] = None,
    bundle: Path | None = None,
    server: str | None = None,
    task: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    backend: str = "onnxruntime",
    json: Path | None = None,
    keys: Path | None = None,
) -> int:
    """Measure success and return over whole episodes. Give one of --from, --bundle, --server.

    Example: edp evaluate --bundle runs/demo/bundle --episodes 200

    Args:
        start: Run folder. Its policy runs in torch.
        bundle: Folder of a bundle to run in this process.
        server: Endpoint of a running server.
        task: Task to evaluate on, by name or package.module:Class. Default: the policy's own.
        episodes: Number of episodes.
        seed: Seeds start states and noise.
        backend: Runtime that computes a --bundle; `edp plugins` lists them.
        json: File to write the result to.
        keys: This client's NAME.key_secret, or the folder that holds it and server.key.
    """
    from policy_server.transport.keys import client_keys

    n_given = sum(option is not None for option in (start, bundle, server))
    if n_given != 1:
        raise ValueError(f"{n_given} of --from, --bundle, --server given; give exactly one")
    found_keys = client_keys(keys, has_server=server is not None)
    if start is not None:
        name, result = _run(start, task, episodes, seed)
    elif bundle is not None:
        name, result = _bundle(bundle, backend, task, episodes, seed)
    else:
        name, result = _server(str(server), found_keys, task, episodes, seed)
    interval = f"[{result.success_low:.3f}, {result.success_high:.3f}]"
    success = f"success {result.success:.3f} {interval}"
    print(f"{name}: {success}, return {result.mean_return:.2f}, {episodes} episodes")
    write_json(json, {"task": name, **result.to_json()})
    return 0


def _run(start: Path, task: str | None, episodes: int, seed: int):
    """Returns (task, result) of a run folder's policy, which answers normalised actions."""
    from edp_robot.deploy.export import load_policy
    from edp_robot.training.actor import torch_actor
    from sim.core.evaluate import evaluate as measure

    held = load_policy(start)
    name = task or held.source.spec.name
    act = torch_actor(held.policy, seed)
    return name, measure(act, name, episodes, seed, held.source.n_action_steps)


def _bundle(bundle: Path, backend: str, task: str | None, episodes: int, seed: int):
    """Returns (task, result) of a bundle in this process, which answers chunks of commands."""
    from calibration.precision.visited import answers
    from policy_server.runtime.base import load_backend

    policy = load_backend(bundle, backend=backend)
    manifest = policy.manifest
    return _commands(answers(policy, manifest.latent_dim, seed), manifest, task, episodes, seed)


def _server(endpoint: str, keys, task: str | None, episodes: int, seed: int):
    """Returns (task, result) of a server, asked for one observation at a time."""
    from policy_server.control.client import PolicyClient

    with PolicyClient(endpoint, keys=keys) as client:
        client.reset(seed)

        def answer(obs: np.ndarray) -> np.ndarray:
            return np.stack([client.act(row) for row in obs])

        return _commands(answer, client.manifest, task, episodes, seed)


def _commands(answer, manifest, task: str | None, episodes: int, seed: int):
    """Returns (task, result) of a policy that answers chunks of commands.

    A task that only the manifest names must be one of ours: the manifest is a file from elsewhere,
    and a name in it must not load code.
    """
    from sim.core.evaluate import evaluate_commands
    from sim.core.registry import task_spec

    name = task or manifest.task
    task_spec(name, may_import=task is not None)
    return name, evaluate_commands(answer, name, episodes, seed, manifest.n_action_steps)
