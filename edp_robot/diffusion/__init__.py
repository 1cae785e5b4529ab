"""Diffusion models: schedule, losses, solver, networks. No reinforcement learning."""
