"""Makes FP16 and INT8 versions of a policy and measures what they lose."""
