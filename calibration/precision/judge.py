"""Compares a policy in fewer bits with the exact one, by its actions and its return.

Actions are compared on states that set no scale, with the same noise. Closed loops run the same
episodes: start states and noise do not depend on the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.file import CalibrationError
from calibration.precision.layers import LAYERS, load_onnx
from calibration.precision.visited import Rows, answers
from policy_server.contract.choices import Precision
from policy_server.contract.manifest import Manifest
from policy_server.contract.policy import BatchPolicy
from sim.core.evaluate import evaluate_commands

N_GROUPS = 20  # groups of episodes
T_95 = 2.093  # two-sided 95 % quantile of Student's t with N_GROUPS - 1 degrees of freedom


@dataclass(frozen=True)
class ClosedLoop:
    """Whole episodes in N_GROUPS groups, each with its own seed.

    Attributes:
        returns: Mean return of each group, (N_GROUPS,).
        successes: Share of successful episodes of each group, (N_GROUPS,). None: the task
            reports no success.
        n_episodes: Episodes of all groups together.
    """

    returns: np.ndarray
    successes: np.ndarray | None
    n_episodes: int


def action_errors(
    precision: Precision,
    policy: BatchPolicy,
    rows: Rows,
    expected: np.ndarray,
    golden: Mapping[str, np.ndarray],
    manifest: Manifest,
) -> dict[str, Any]:
    """Returns how far a policy's commands are from the expected and from the golden ones.

    max_abs_error and mean_abs_error are in physical units. max_share and mean_share are shares of
    each action's range, None where no action has finite limits. golden_abs_errors has the largest
    error of each action on the golden vectors [unit].

    Args:
        precision: Name of the policy's version, for the message.
        policy: Computes the commands.
        rows: Its inputs.
        expected: (n, horizon, act_dim) commands of the exact policy.
        golden: Golden vectors of the bundle.
        manifest: The policy's manifest.

    Raises:
        CalibrationError: An answer is not finite.
    """
    action = policy.act(rows.obs, rows.noise)
    replayed = policy.act(golden["obs"], golden["noise"])
    for answer in (action, replayed):
        _check_finite(precision, answer)
    error = np.abs(action - expected)
    span = manifest.action_high - manifest.action_low
    share = (error / np.where(span > 0, span, np.inf))[..., np.isfinite(span)]
    return {
        "max_abs_error": float(error.max()),
        "mean_abs_error": float(error.mean()),
        "max_share": float(share.max()) if share.size else None,
        "mean_share": float(share.mean()) if share.size else None,
        "golden_abs_errors": np.abs(replayed - golden["action"]).max((0, 1)).tolist(),
        "n": len(action),
    }


def rounded_errors(graph: bytes, golden: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns each action's golden error if every operator's result is rounded to float16.

    It is (act_dim,). ONNX Runtime has few float16 kernels for the CPU and rounds only now and then.
    A GPU rounds as this does. Returns zeros where the graph holds operators that are not ONNX's
    own.

    Raises:
        CalibrationError: An answer is not finite, or a layer overflows, which a limit would hide.
    """
    onnx = load_onnx()
    model = onnx.load_from_string(graph)
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return np.zeros(golden["action"].shape[-1])
    feeds = {value.name: golden[value.name] for value in model.graph.input}
    values = onnx.reference.ReferenceEvaluator(model).run(None, feeds, intermediate=True)
    action = values["action"]
    _check_finite("fp16", action)
    for node in model.graph.node:
        if node.op_type in LAYERS and not np.isfinite(values[node.output[0]]).all():
            raise CalibrationError(
                f"fp16: {node.op_type} {node.name} overflows on the golden observations: its "
                "numbers are too large for this precision; leave it out with --precisions"
            )
    return np.abs(action - golden["action"]).max((0, 1))


def _check_finite(precision: Precision, action: np.ndarray) -> None:
    """Raises CalibrationError where an action (n, horizon, act_dim) is not finite."""
    n_bad = int((~np.isfinite(action)).any(axis=(1, 2)).sum())
    if n_bad:
        raise CalibrationError(
            f"{precision} answers NaN or infinity in {n_bad} of {len(action)} states: its numbers "
            "are too large for this precision; leave it out with --precisions"
        )


def closed_loop(policy: BatchPolicy, manifest: Manifest, n_episodes: int, seed: int) -> ClosedLoop:
    """Returns return and success over `n_episodes`, rounded up to whole groups.

    Args:
        policy: Computes the commands.
        manifest: The policy's manifest.
        n_episodes: Episodes of its simulated task to run.
        seed: Seeds start states and noise.
    """
    size = -(-n_episodes // N_GROUPS)
    groups = []
    for i in range(N_GROUPS):
        group_seed = 1000 * seed + 10 + i  # `visited.collect` uses other seeds
        answer = answers(policy, manifest.latent_dim, group_seed)
        steps = manifest.n_action_steps
        groups.append(evaluate_commands(answer, manifest.task, size, group_seed, steps))
    reports = any(group.success is not None for group in groups)
    return ClosedLoop(
        returns=np.array([group.mean_return for group in groups]),
        successes=np.array([group.success or 0.0 for group in groups]) if reports else None,
        n_episodes=size * N_GROUPS,
    )


def compare(base: ClosedLoop, other: ClosedLoop) -> dict[str, Any]:
    """Returns what `other` earns beside `base`: difference of returns, 95 % interval, loss.

    return_loss is (base - other) / |base|, where base is the return, or the success where the
    return is 0; loss_of says which. Both are None where float32 has neither. success is None where
    the task reports none. Groups are paired, so the interval holds only what the policies do
    differently.
    """
    difference = other.returns - base.returns
    mean = float(difference.mean())
    half = T_95 * float(difference.std(ddof=1)) / np.sqrt(N_GROUPS)
    mean_return = float(other.returns.mean())
    success = None if other.successes is None else float(other.successes.mean())
    pairs = [("return", float(base.returns.mean()), mean_return)]
    if base.successes is not None and success is not None:
        pairs.append(("success", float(base.successes.mean()), success))
    known = [(what, (before - after) / abs(before)) for what, before, after in pairs if before]
    loss_of, loss = known[0] if known else (None, None)
    return {
        "mean_return": mean_return,
        "success": success,
        "return_difference": mean,
        "return_difference_ci": [mean - half, mean + half],
        "return_loss": loss,
        "loss_of": loss_of,
        "n_episodes": other.n_episodes,
    }
