"""What the study of distillation measures of a policy: return, the distribution of its actions, latency."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edp_robot.deploy.export import to_onnx
from edp_robot.deploy.policies import Deployed
from edp_robot.studies.distillation_runs import Policy, Uniform
from edp_robot.training.actor import torch_actor
from edp_robot.training.source import Source, visited_states
from policy_server.contract.files import write_atomic
from sim.core.evaluate import evaluate
from sim.core.spec import TaskSpec

ActsFn = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # (obs, noise) -> action, of an exported graph
N_STATES, N_DRAWS = 256, 64  # of the energy distance


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Returns 2 E|X - Y| - E|X - X'| - E|Y - Y'| (n,) of samples x (n, m, dim), y (n, k, dim); unbiased, 0 if equal.

    It can be negative: two samples of one distribution give 0 on average.
    """
    m, k = x.shape[1], y.shape[1]
    within = torch.cdist(x, x).sum((1, 2)) / (m * (m - 1)) + torch.cdist(y, y).sum((1, 2)) / (
        k * (k - 1)
    )
    return 2 * torch.cdist(x, y).mean((1, 2)) - within


@torch.no_grad()
def draws(policy: nn.Module, obs: Tensor, seed: int) -> Tensor:
    """Returns N_DRAWS actions (n, N_DRAWS, act_dim) at each of obs (n, obs_dim)."""
    generator = torch.Generator().manual_seed(seed)
    wide = obs.repeat_interleave(N_DRAWS, 0)
    noise = torch.randn(len(wide), int(policy.latent_dim), generator=generator)  # type: ignore[arg-type]
    return policy(wide, noise).reshape(len(obs), N_DRAWS, -1)


class Quality:
    """Returns and energy distances of a task's policies, kept in a file, measured where they are missing.

    All policies face the same episodes. The energy distance is the mean over N_STATES states that the teacher met.
    """

    def __init__(
        self, path: Path, source: Source, reference: nn.Module, episodes: int, seed: int
    ) -> None:
        self.path, self.source, self.reference, self.episodes, self.seed = (
            path,
            source,
            reference,
            episodes,
            seed,
        )
        self.found: dict[str, dict[str, float]] = (
            json.loads(path.read_text()) if path.exists() else {}
        )
        states = visited_states(source, 64, 1, seed + 7)
        generator = torch.Generator().manual_seed(seed)
        self.obs = states[torch.randint(len(states), (N_STATES,), generator=generator)]

    def measure(self, found: list[Policy]) -> dict[str, dict[str, float]]:
        """Returns {policy: {success, mean_return, return_sem, energy_distance}}, of random and the reference too."""
        act_dim = self.source.spec.act_dim
        others = [Policy("random", 0, Uniform(act_dim)), Policy("teacher", 64, self.reference)]
        target = draws(self.reference, self.obs, self.seed + 100)
        for i, policy in enumerate([*others, *found]):
            if policy.name in self.found:
                continue
            result = evaluate(
                torch_actor(policy.module, self.seed),
                self.source.spec.name,
                self.episodes,
                self.seed + 1_000,
                self.source.n_action_steps,
            )
            distance = (
                energy_distance(draws(policy.module, self.obs, self.seed + 200 + i), target)
                .mean()
                .item()
            )
            self.found[policy.name] = {**result.to_json(), "energy_distance": distance}
            write_atomic(self.path, json.dumps(self.found, indent=1).encode())
            print(
                f"{self.source.spec.name}, {policy.name}: return {result.mean_return:.2f}",
                flush=True,
            )
        return self.found


def latencies(
    found: list[Policy], source: Source, runtimes: dict[str, Callable[[bytes], ActsFn]], n: int
) -> dict[str, np.ndarray]:
    """Returns {`policy runtime`: times (n,) [us]} of one action each, batch 1, rounds interleaved, one thread.

    `runtimes` make an exported graph callable; torch, eager, is always measured.
    """
    spec, horizon = source.spec, source.n_action_steps
    contenders: dict[str, Callable[[], Any]] = {}
    for policy in found:
        contenders[f"{policy.name} torch"] = torch_call(policy.module, spec, horizon)
        for name, make in runtimes.items():
            contenders[f"{policy.name} {name}"] = onnx_call(policy.module, spec, horizon, make)
    return interleaved(contenders, n)


def torch_call(policy: nn.Module, spec: TaskSpec, horizon: int) -> Callable[[], Any]:
    """Returns one decision of the policy in torch, eager, from arrays to an array."""
    deployed = Deployed(policy, spec.action_map, horizon).eval()
    obs, noise = _inputs(policy, spec)

    def call() -> None:
        with torch.inference_mode():
            deployed(torch.from_numpy(obs), torch.from_numpy(noise)).numpy()

    return call


def onnx_call(
    policy: nn.Module, spec: TaskSpec, horizon: int, make: Callable[[bytes], ActsFn]
) -> Callable[[], Any]:
    """Returns one decision of the policy's graph in the runtime that `make` makes."""
    act, (obs, noise) = make(to_onnx(policy, spec, horizon)), _inputs(policy, spec)
    return lambda: act(obs, noise)


def products_call(weights: list[np.ndarray]) -> Callable[[], None]:
    """Returns the products of single rows with these matrices (n_in, n_out) in NumPy, without allocation: the floor."""
    rows = [np.zeros((1, w.shape[0]), np.float32) for w in weights]
    outs = [np.zeros((1, w.shape[1]), np.float32) for w in weights]

    def call() -> None:
        for x, w, out in zip(rows, weights, outs, strict=True):
            np.dot(x, w, out=out)

    return call


def _inputs(policy: nn.Module, spec: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """Returns an obs (1, obs_dim) and noise (1, latent_dim): what they hold does not matter to the time."""
    n = int(policy.latent_dim)  # type: ignore[arg-type]
    return np.zeros((1, spec.obs_dim), np.float32), np.random.default_rng(0).standard_normal(
        (1, n), np.float32
    )


def interleaved(
    contenders: dict[str, Callable[[], Any]], n: int, n_rounds: int = 20
) -> dict[str, np.ndarray]:
    """Returns the time of each call (n,) [us] by contender, after a warm-up.

    They take turns in `n_rounds`, so that a slow moment of the machine falls on all of them.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for act in contenders.values():
        for _ in range(20):
            act()
    for _ in range(n_rounds):
        for name, act in contenders.items():
            for _ in range(3):  # what the one before left in the caches
                act()
            for _ in range(max(1, n // n_rounds)):
                began = time.perf_counter_ns()
                act()
                samples[name].append((time.perf_counter_ns() - began) / 1e3)
    return {name: np.array(times) for name, times in samples.items()}
