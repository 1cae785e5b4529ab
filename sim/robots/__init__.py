"""Simulated robots that run in real time."""
