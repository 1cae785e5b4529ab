"""Trains policies: the training loop, run folders, cloning, distillation."""
