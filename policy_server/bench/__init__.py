"""Measures latency: one policy, one client, many clients."""
