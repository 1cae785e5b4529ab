"""Fine-tuners, one a file."""
