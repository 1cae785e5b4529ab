"""Drives a robot: client, control loop, limiter, recorder."""
