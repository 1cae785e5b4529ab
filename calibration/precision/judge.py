"""How a policy in fewer bits compares with the exact one: its actions, and what it earns in closed loop.

Actions are compared on states that set no scale, with the same noise; closed loops on the same episodes: starts and
noise are the same stream, whatever the policy does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.precision.layers import load_onnx
from calibration.precision.visited import Policy, Rows, bundle_actor
from policy_server.contract.bundle import Manifest, Precision
from sim.core.evaluate import evaluate
from sim.core.spec import TaskSpec

N_GROUPS, T_95 = (
    20,
    2.093,
)  # groups of episodes, and the two-sided 95 % quantile of Student's t for 19


@dataclass(frozen=True)
class ClosedLoop:
    """Whole episodes in N_GROUPS groups, each with a seed of its own.

    Attributes:
        returns: mean return of each group, (N_GROUPS,).
        successes: share of success of each group, (N_GROUPS,).
        n_episodes: of all groups together.
    """

    returns: np.ndarray
    successes: np.ndarray
    n_episodes: int


def action_errors(
    precision: Precision,
    policy: Policy,
    rows: Rows,
    expected: np.ndarray,
    golden: Mapping[str, np.ndarray],
    manifest: Manifest,
) -> dict[str, Any]:
    """Returns how far a policy's commands are from `expected` (n, horizon, act_dim), and from the golden ones.

    max_abs_error and mean_abs_error are in physical units; max_share and mean_share are shares of each action's range,
    None where no action has finite limits.

    Raises:
        CalibrationError: an answer is not finite.
    """
    action, replayed = policy.act(rows.obs, rows.noise), policy.act(golden["obs"], golden["noise"])
    for answer in (action, replayed):
        _check_finite(precision, answer)
    error, span = np.abs(action - expected), manifest.action_high - manifest.action_low
    share = (error / np.where(span > 0, span, np.inf))[..., np.isfinite(span)]
    return {
        "max_abs_error": float(error.max()),
        "mean_abs_error": float(error.mean()),
        "max_share": float(share.max()) if share.size else None,
        "mean_share": float(share.mean()) if share.size else None,
        "golden_max_abs_error": float(np.abs(replayed - golden["action"]).max()),
        "n": len(action),
    }


def rounded_error(graph: bytes, golden: Mapping[str, np.ndarray]) -> float:
    """Returns the largest error on the golden vectors where every operator's result is rounded to float16.

    ONNX Runtime's CPU has few float16 kernels and rounds only now and then; a GPU rounds as this does. 0 where the
    graph holds operators that are not ONNX's own.

    Raises:
        CalibrationError: an answer is not finite.
    """
    onnx = load_onnx()
    model = onnx.load_from_string(graph)
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return 0.0
    feeds = {value.name: golden[value.name] for value in model.graph.input}
    action = onnx.reference.ReferenceEvaluator(model).run(None, feeds)[0]
    _check_finite("fp16", action)
    return float(np.abs(action - golden["action"]).max())


def _check_finite(precision: Precision, action: np.ndarray) -> None:
    """Raises CalibrationError where an action (n, horizon, act_dim) is not finite."""
    bad = int((~np.isfinite(action)).any(axis=(1, 2)).sum())
    if bad:
        raise CalibrationError(
            f"{precision} answers NaN or infinity in {bad} of {len(action)} states: its numbers are too large for this "
            "precision; leave it out with --precisions"
        )


def closed_loop(
    policy: Policy, manifest: Manifest, spec: TaskSpec, n_episodes: int, seed: int
) -> ClosedLoop:
    """Returns return and success over `n_episodes`, rounded up to whole groups."""
    size, groups = -(-n_episodes // N_GROUPS), []
    for i in range(N_GROUPS):
        group_seed = 1000 * seed + 10 + i  # apart from those of `visited.collect`
        act = bundle_actor(policy, spec, manifest.latent_dim, group_seed)
        groups.append(evaluate(act, spec.name, size, group_seed, manifest.n_action_steps))
    returns, successes = (
        np.array([getattr(g, name) for g in groups]) for name in ("mean_return", "success")
    )
    return ClosedLoop(returns, successes, size * N_GROUPS)


def compare(base: ClosedLoop, other: ClosedLoop) -> dict[str, Any]:
    """Returns what `other` earns beside `base`: the difference of their returns, its 95 % interval, and the loss.

    return_loss is (base - other) / |base|: of the return, or where that is 0 of the success, which loss_of tells; both
    are None where float32 has neither. Groups are paired, so that only what the policies do differently is left in the
    interval.
    """
    difference = other.returns - base.returns
    mean, half = float(difference.mean()), T_95 * float(difference.std(ddof=1)) / np.sqrt(N_GROUPS)
    pairs = (
        ("return", float(base.returns.mean()), float(other.returns.mean())),
        ("success", float(base.successes.mean()), float(other.successes.mean())),
    )
    known = [(what, (before - after) / abs(before)) for what, before, after in pairs if before]
    loss_of, loss = known[0] if known else (None, None)
    return {
        "mean_return": float(other.returns.mean()),
        "success": float(other.successes.mean()),
        "return_difference": mean,
        "return_difference_ci": [mean - half, mean + half],
        "return_loss": loss,
        "loss_of": loss_of,
        "n_episodes": other.n_episodes,
    }
