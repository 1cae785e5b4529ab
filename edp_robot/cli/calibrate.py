"""`edp calibrate`: what needs no robot."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def quant(
    bundle: Path,
    data: Path | None = None,
    episodes: int = 200,
    precisions: tuple[Literal["fp16", "int8"], ...] = ("fp16", "int8"),
    force: bool = False,
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Make FP16 and INT8 versions of a policy, measure what they lose, and put those that lose little in its bundle.

    Scales come from observations that the policy meets: sampled in its own simulated task, or --data. A version that
    loses more than 2 % of the return is refused.
    Example: edp calibrate quant runs/demo/bundle --json quant.json

    Args:
        bundle: Folder of the policy bundle.
        data: File .npz with obs (n, obs_dim) from a robot, as `edp control --record` writes it.
        episodes: Of the closed loop that is measured, rounded up to a multiple of 20.
        precisions: Which versions.
        force: Keep a version that loses too much, and mark it.
        seed: Of starts and noise.
        json: File to write everything measured to.
    """
    from edp_robot.cli import calibration_commands as commands

    return commands.quant(bundle, data, episodes, precisions, force, seed, json)
