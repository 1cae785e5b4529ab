"""What a person runs: pre-train, fine-tune, distil, export, evaluate."""
