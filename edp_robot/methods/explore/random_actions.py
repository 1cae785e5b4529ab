"""No intrinsic reward: uniform actions, the baseline of every exploration table."""

from __future__ import annotations

from edp_robot.methods.explore.intrinsic_reward import INTRINSIC_REWARDS, IntrinsicReward


@INTRINSIC_REWARDS.register("random")
class RandomActions(IntrinsicReward):
    """Pays nothing. Pre-training with it acts uniformly and trains no network."""

    learns = False
