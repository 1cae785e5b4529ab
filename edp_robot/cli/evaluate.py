"""`edp evaluate`: runs a policy on whole episodes, from a run, a bundle or a server."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import numpy as np

from edp_robot.cli.arguments import FROM
from policy_server.contract.disk.files import write_json
from policy_server.contract.disk.outputs import OutFile
from policy_server.contract.noise import check_seed

MAX_CONNECTIONS = 256


def evaluate(
    start: Annotated[Path | None, FROM] = None,
    bundle: Path | None = None,
    server: str | None = None,
    task: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    backend: str = "onnxruntime",
    json: OutFile | None = None,
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
    check_seed(seed)
    found_keys = client_keys(keys, has_server=server is not None)
    if start is not None:
        name, result = _run(start, task, episodes, seed)
    elif bundle is not None:
        name, result = _bundle(bundle, backend, task, episodes, seed)
    else:
        name, result = _server(str(server), found_keys, task, episodes, seed)
    print(f"{name}: {result.said()}, {episodes} episodes")
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
    if manifest.state_dim:
        rows = _Remembering(policy, seed)
        return _commands(rows.answer, manifest, task, episodes, seed, rows.begin)
    return _commands(answers(policy, manifest.latent_dim, seed), manifest, task, episodes, seed)


class _Remembering:
    """A policy with memory that answers many episodes at once, each from its own memory.

    Args:
        policy: The policy's `CheckedBackend`.
        seed: Seeds the noise.
    """

    def __init__(self, policy, seed: int) -> None:
        self._policy = policy
        self._rng = np.random.default_rng(seed)
        self._state = np.zeros((0, policy.manifest.state_dim), np.float32)

    def begin(self, rows: np.ndarray) -> None:
        """Empties the memory of rows (n,) bool."""
        if len(self._state) != len(rows):
            self._state = np.zeros((len(rows), self._state.shape[1]), np.float32)
        self._state[rows] = 0

    def answer(self, obs: np.ndarray) -> np.ndarray:
        """Returns commands (n, horizon, act_dim) for obs (n, obs_dim)."""
        size = (len(obs), self._policy.manifest.latent_dim)
        noise = self._rng.standard_normal(size, dtype=np.float32)
        action, self._state = self._policy.step(obs, noise, self._state)
        return action


def _server(endpoint: str, keys, task: str | None, episodes: int, seed: int):
    """Returns (task, result) of a server, asked for one observation at a time.

    A policy with memory remembers one episode a connection, so each episode has its own.
    """
    from policy_server.control.client import PolicyClient

    with contextlib.ExitStack() as stack:

        def connected() -> PolicyClient:
            return stack.enter_context(PolicyClient(endpoint, keys=keys))

        clients = [connected()]
        clients[0].reset(seed)
        manifest = clients[0].manifest
        remembers = manifest.state_dim > 0

        def begin(rows: np.ndarray) -> None:
            if remembers and len(rows) > MAX_CONNECTIONS:
                raise ValueError(
                    f"{len(rows)} episodes at once: a policy with memory needs a connection for "
                    f"each, at most {MAX_CONNECTIONS}; give fewer --episodes, or --bundle"
                )
            while remembers and len(clients) < len(rows):
                clients.append(connected())
                clients[-1].reset(seed + len(clients) - 1)
            for row in np.flatnonzero(rows) if remembers else ():
                clients[row].reset()

        def answer(obs: np.ndarray) -> np.ndarray:
            whose = clients[: len(obs)] if remembers else clients * len(obs)
            return np.stack([client.act(row) for client, row in zip(whose, obs, strict=True)])

        return _commands(answer, manifest, task, episodes, seed, begin)


def _commands(
    answer, manifest, task: str | None, episodes: int, seed: int, begin=lambda rows: None
):
    """Returns (task, result) of a policy that answers chunks of commands.

    A task that only the manifest names must be one of ours: the manifest is a file from elsewhere,
    and a name in it must not load code.
    """
    from sim.core.evaluate import evaluate_commands
    from sim.core.registry import task_spec

    name = task or manifest.task
    task_spec(name, may_import=task is not None)
    steps = manifest.n_action_steps
    return name, evaluate_commands(answer, name, episodes, seed, steps, begin)
