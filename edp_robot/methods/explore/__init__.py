"""Intrinsic rewards, one a file."""
