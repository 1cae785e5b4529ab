"""Measures a robot and writes what it found into `calibration.json`; uses sim and policy_server, never torch."""
