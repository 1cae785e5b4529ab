"""How far a machine's answers may be from the golden ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policy_server.contract.checks import is_number
from policy_server.contract.choices import Precision
from policy_server.contract.field import tolerances
from policy_server.contract.manifest import Manifest

# Share of each action's range. Export allows a policy half of it at most, because another machine
# rounds otherwise.
FP32_SHARE = 5e-5
MOST_ROUNDING = 0.01
MADE = 1.5  # times the error that a version in fewer bits had when it was made


def allowed_errors(
    manifest: Manifest, precision: Precision, golden: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Returns the allowed difference of each action (act_dim,).

    A policy that computes in float16 itself says in its parity what that rounds, as a share.

    Args:
        manifest: The policy's manifest.
        precision: Version of the graph.
        golden: The golden arrays.
    """
    parity = manifest.parity
    share = FP32_SHARE + min(max(_number(parity, "rounding"), 0.0), MOST_ROUNDING)
    allowed = tolerances(manifest.action, golden["action"], share)
    made = parity.get(precision) if precision != "fp32" else None
    if not isinstance(made, dict):
        return allowed
    errors = made.get("golden_abs_errors")  # older bundles have only the largest of them
    if isinstance(errors, list) and len(errors) == len(allowed) and all(map(is_number, errors)):
        return allowed + MADE * np.array(errors)
    return allowed + MADE * _number(made, "golden_max_abs_error")


def _number(values: dict[str, Any], key: str) -> float:
    """Returns a number of the manifest; 0 where there is none."""
    value = values.get(key, 0.0)
    return float(value) if is_number(value) else 0.0
