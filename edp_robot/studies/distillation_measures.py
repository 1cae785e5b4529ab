"""What the study of distillation measures of a policy: return, distribution of actions, latency."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edp_robot.deploy.export import latent_dim, to_onnx
from edp_robot.deploy.policies import Deployed
from edp_robot.studies.distillation_runs import Policy, Uniform
from edp_robot.training.actor import torch_actor
from edp_robot.training.source import Source, visited_states
from policy_server.contract.disk.files import write_json
from sim.core.evaluate import evaluate
from sim.core.spec import TaskSpec

ActsFn = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (obs, noise) -> action of a graph
N_STATES = 256  # states of the energy distance
N_DRAWS = 64  # actions drawn in each of them


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Returns 2 E|X - Y| - E|X - X'| - E|Y - Y'| (n,) of samples x (n, m, dim), y (n, k, dim).

    The estimate is unbiased: two samples of one distribution give 0 on average, so it can be
    negative.
    """
    return 2 * torch.cdist(x, y).mean((1, 2)) - _within(x) - _within(y)


def _within(x: Tensor) -> Tensor:
    """Returns the mean distance (n,) of two different samples of x (n, m, dim)."""
    m = x.shape[1]
    return torch.cdist(x, x).sum((1, 2)) / (m * (m - 1))


@torch.no_grad()
def draws(policy: nn.Module, obs: Tensor, seed: int) -> Tensor:
    """Returns N_DRAWS actions (n, N_DRAWS, act_dim) at each of obs (n, obs_dim).

    Args:
        policy: Answers (obs, noise).
        obs: Raw observations.
        seed: Seeds the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = obs.repeat_interleave(N_DRAWS, 0)
    noise = torch.randn(len(wide), latent_dim(policy), generator=generator)
    return policy(wide, noise).reshape(len(obs), N_DRAWS, -1)


class Quality:
    """Returns and energy distances of a task's policies, kept in a file.

    All policies face the same episodes. The energy distance is the mean over N_STATES states that
    the teacher met.

    Args:
        path: The file. What it holds is not measured again.
        source: The run of the task's teacher.
        reference: The policy whose actions are the target of the energy distance.
        episodes: Episodes of each return.
        seed: Seeds states, episodes and noise.
    """

    def __init__(
        self, path: Path, source: Source, reference: nn.Module, episodes: int, seed: int
    ) -> None:
        self.path = path
        self.source = source
        self.reference = reference
        self.episodes = episodes
        self.seed = seed
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        states = visited_states(source, 64, 1, seed + 7)
        generator = torch.Generator().manual_seed(seed)
        self.obs = states[torch.randint(len(states), (N_STATES,), generator=generator)]

    def measure(self, policies: list[Policy]) -> dict[str, dict[str, float]]:
        """Returns success, mean_return, return_sem and energy_distance by policy.

        Random actions and the reference are measured too.
        """
        act_dim = self.source.spec.act_dim
        others = [Policy("random", 0, Uniform(act_dim)), Policy("teacher", 64, self.reference)]
        target = draws(self.reference, self.obs, self.seed + 100)
        for i, policy in enumerate([*others, *policies]):
            if policy.name not in self.found:
                actions = draws(policy.module, self.obs, self.seed + 200 + i)
                distance = energy_distance(actions, target).mean().item()
                self.found[policy.name] = self.returns(policy) | {"energy_distance": distance}
                write_json(self.path, self.found)
        return self.found

    def returns(self, policy: Policy) -> dict[str, float]:
        """Returns success and return of a policy over the task's episodes."""
        task = self.source.spec.name
        act = torch_actor(policy.module, self.seed)
        seed = self.seed + 1_000
        result = evaluate(act, task, self.episodes, seed, self.source.n_action_steps)
        print(f"{task}, {policy.name}: return {result.mean_return:.2f}", flush=True)
        return result.to_json()


def latencies(
    policies: list[Policy], source: Source, runtimes: dict[str, Callable[[bytes], ActsFn]], n: int
) -> dict[str, np.ndarray]:
    """Returns times (n,) [us] of one action, batch 1, one thread, by `policy runtime`.

    Args:
        policies: The policies. Torch, eager, is always timed.
        source: The run of their teacher.
        runtimes: By name, functions that make an exported graph callable.
        n: Calls of each policy on each runtime, in turns.
    """
    spec = source.spec
    horizon = source.n_action_steps
    contenders: dict[str, Callable[[], Any]] = {}
    for policy in policies:
        contenders[f"{policy.name} torch"] = torch_call(policy.module, spec, horizon)
        for name, make in runtimes.items():
            graph = to_onnx(policy.module, spec, horizon)
            contenders[f"{policy.name} {name}"] = onnx_call(make(graph), policy.module, spec)
    return interleaved(contenders, n)


def torch_call(policy: nn.Module, spec: TaskSpec, horizon: int) -> Callable[[], Any]:
    """Returns a function that takes one decision in torch, eager, from arrays to an array.

    Args:
        policy: Answers (obs, noise).
        spec: Its task.
        horizon: Commands of an answer.
    """
    deployed = Deployed(policy, spec.action_map, horizon).eval()
    obs, noise = _inputs(policy, spec)

    def call() -> None:
        with torch.inference_mode():
            deployed(torch.from_numpy(obs), torch.from_numpy(noise)).numpy()

    return call


def onnx_call(act: ActsFn, policy: nn.Module, spec: TaskSpec) -> Callable[[], Any]:
    """Returns a function that takes one decision by a policy's exported graph.

    Args:
        act: The graph, callable.
        policy: The policy, whose noise the graph takes.
        spec: Its task.
    """
    obs, noise = _inputs(policy, spec)
    return lambda: act(obs, noise)


def products_call(weights: list[np.ndarray]) -> Callable[[], None]:
    """Returns a function that multiplies single rows with these matrices (n_in, n_out).

    It computes in NumPy and allocates nothing: the floor of any runtime.
    """
    rows = [np.zeros((1, w.shape[0]), np.float32) for w in weights]
    outs = [np.zeros((1, w.shape[1]), np.float32) for w in weights]

    def call() -> None:
        for x, w, out in zip(rows, weights, outs, strict=True):
            np.dot(x, w, out=out)

    return call


def _inputs(policy: nn.Module, spec: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """Returns an obs (1, obs_dim) and noise (1, latent_dim); the time depends on neither."""
    noise = np.random.default_rng(0).standard_normal((1, latent_dim(policy)), np.float32)
    return np.zeros((1, spec.obs_dim), np.float32), noise


def interleaved(
    contenders: dict[str, Callable[[], Any]], n: int, n_rounds: int = 20
) -> dict[str, np.ndarray]:
    """Returns the time of each call (n,) [us] by contender, after a warm-up.

    Args:
        contenders: Functions without arguments, by name.
        n: Calls of each.
        n_rounds: They take turns so often, so that a slow moment of the machine meets all of them.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for act in contenders.values():
        for _ in range(20):
            act()
    for _ in range(n_rounds):
        for name, act in contenders.items():
            for _ in range(3):  # refill the caches after the contender before
                act()
            for _ in range(max(1, n // n_rounds)):
                began = time.perf_counter_ns()
                act()
                samples[name].append((time.perf_counter_ns() - began) / 1e3)
    return {name: np.array(times) for name, times in samples.items()}
