"""Studies: many runs, one table. Each can be interrupted, and goes on where it stood."""
