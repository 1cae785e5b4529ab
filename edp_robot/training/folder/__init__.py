"""What a run folder asks of those who write and read it: one writer, the same options, age."""
