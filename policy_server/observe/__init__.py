"""Shows what a server does: counters, metrics, logs, and a live view."""
