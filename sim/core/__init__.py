"""What every simulated task shares: spec, action map, environments, hold, coverage, evaluation.

Import the public names from `sim`.
"""
