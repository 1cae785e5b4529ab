"""Intrinsic rewards, one per file. `INTRINSIC_REWARDS` finds them by name."""

from edp_robot.methods.explore.intrinsic_reward import (
    INTRINSIC_REWARDS,
    IntrinsicReward,
    reward_class,
)

__all__ = ["INTRINSIC_REWARDS", "IntrinsicReward", "reward_class"]
