"""Shows what a server does: counts, metrics, logs, and a live view in the terminal."""
