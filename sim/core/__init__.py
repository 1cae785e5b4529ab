"""What every simulated task shares: spec, vector environments, action hold, evaluation."""
