"""Intrinsic rewards: what pays for going somewhere new. One file each, one interface (`IntrinsicReward`)."""
