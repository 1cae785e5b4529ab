"""Measures the delay between command and motion."""
