"""The parts of soak.py: a server under many requests, under hostile frames, and under reloads."""
