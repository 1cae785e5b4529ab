"""Runs a policy's graph. Nothing outside knows which library does it."""
